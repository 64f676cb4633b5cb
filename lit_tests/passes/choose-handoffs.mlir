// RUN: mpk-opt %s -p mpk-choose-handoffs --split-input-file | filecheck %s

// What linears and norms write and others read as a whole is flagged. Not so: inputs and outputs, what a
// product of matrices reads again and again, what is read in part only.

// CHECK-LABEL: func.func @step
// CHECK:         mpk_task.buffer scratch "h" flagged : memref<1x8xbf16>
// CHECK:         mpk_task.buffer scratch "n" flagged : memref<1x8xf32>
// CHECK:         mpk_task.buffer scratch "m" : memref<1x8xf32>
// CHECK:         mpk_task.buffer scratch "part" : memref<1x8xf32>
// CHECK:         mpk_task.buffer output "y" : memref<1x8xf32>
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x8xf32>
  %w = mpk_task.buffer weight "w" : memref<8x8xf32>
  %h = mpk_task.buffer scratch "h" : memref<1x8xbf16>
  %n = mpk_task.buffer scratch "n" : memref<1x8xf32>
  %m = mpk_task.buffer scratch "m" : memref<1x8xf32>
  %part = mpk_task.buffer scratch "part" : memref<1x8xf32>
  %y = mpk_task.buffer output "y" : memref<1x8xf32>
  mpk_task.grid @linear [2] reads(%x, %w : memref<1x8xf32>, memref<8x8xf32>) writes(%h : memref<1x8xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<4x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xbf16>
    mpk_task.yield %2 : tensor<1x4xbf16>
  }
  mpk_task.grid @norm [1] reads(%h : memref<1x8xbf16>) writes(%n : memref<1x8xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xbf16>):
    %1 = mpk_tensor.rms_norm %0 eps 1.000000e-05 : (tensor<1x8xbf16>) -> tensor<1x8xf32>
    mpk_task.yield %1 : tensor<1x8xf32>
  }
  mpk_task.grid @softmax [1] reads(%n : memref<1x8xf32>) writes(%m : memref<1x8xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xf32>):
    %1 = mpk_tensor.softmax %0 : tensor<1x8xf32> to tensor<1x8xf32>
    mpk_task.yield %1 : tensor<1x8xf32>
  }
  mpk_task.grid @product [1] reads(%m, %w : memref<1x8xf32>, memref<8x8xf32>) writes(%part : memref<1x8xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<8x8xf32>):
    %2 = mpk_tensor.matmul %0, %1 : (tensor<1x8xf32>, tensor<8x8xf32>) -> tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @slice [2] reads(%part : memref<1x8xf32>) writes(%y : memref<1x8xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x8xf32>):
    %1 = mpk_tensor.slice %0 dim 1 start 2 : tensor<1x8xf32> to tensor<1x4xf32>
    mpk_task.yield %1 : tensor<1x4xf32>
  }
  func.return
}

// -----

// Tiles that overlap would write an element twice; what ranks write into each other's memory is
// flagged like anything else.

// CHECK-LABEL: func.func @twice
// CHECK:         mpk_task.buffer scratch "x" : memref<8xf32>
func.func @twice() {
  %x = mpk_task.buffer scratch "x" : memref<8xf32>
  %y = mpk_task.buffer output "y" : memref<8xf32>
  mpk_task.grid @first [2] writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [6]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<6xf32>
    mpk_task.yield %0 : tensor<6xf32>
  }
  mpk_task.grid @second [1] reads(%x : memref<8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
  ^bb0(%0 : tensor<8xf32>):
    mpk_task.yield %0 : tensor<8xf32>
  }
  func.return
}

// -----

// CHECK-LABEL: mpk.mesh
// CHECK:         mpk_task.buffer scratch "x" exchange flagged : memref<2x8xf32>
module attributes {mpk.mesh = {tp = 2}} {
  func.func @ranks() {
    %x = mpk_task.buffer scratch "x" exchange : memref<2x8xf32>
    %own = mpk_task.mine %x : memref<2x8xf32> to memref<8xf32>
    %y = mpk_task.buffer output "y" : memref<2x8xf32>
    mpk_task.grid @first [2] writes(%own : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %0 : tensor<4xf32>
    }
    mpk_task.grid @second [1] reads(%x : memref<2x8xf32>) writes(%y : memref<2x8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      mpk_task.yield %0 : tensor<2x8xf32>
    }
    func.return
  }
}
