// RUN: mpk-opt %s -p mpk-plan-memory --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-plan-memory{order=none}" --split-input-file | filecheck %s --check-prefix NONE
// RUN: not mpk-opt %s -p "mpk-plan-memory{order=size}" 2>&1 | filecheck %s --check-prefix ORDER

// Every task of @third reads all of %b, so @second, the last reader of %a, is over before: %c takes
// the memory of %a, of which it needs the first part. Inputs and outputs keep their own.

// CHECK:       builtin.module attributes {mpk.activations = {unshared = 112 : i64, live = 96 : i64, planned = 96 : i64}}
// CHECK-LABEL: func.func @chain
// CHECK:         %[[X:.*]] = mpk_task.buffer input "x"
// CHECK-NEXT:    %[[AC:.*]] = mpk_task.buffer scratch "activations.0" : memref<16xf32>
// CHECK-NEXT:    %[[A:.*]] = mpk_task.view %[[AC]] : memref<16xf32> to memref<2x8xf32>
// CHECK-NEXT:    %[[B:.*]] = mpk_task.buffer scratch "b" : memref<8xf32>
// CHECK-NEXT:    %[[C:.*]] = mpk_task.view %[[AC]] : memref<16xf32> to memref<4xf32>
// CHECK-NEXT:    %[[Y:.*]] = mpk_task.buffer output "y"
// CHECK:         mpk_task.grid @second [2] reads(%[[A]] : memref<2x8xf32>) writes(%[[B]] : memref<8xf32>)
// CHECK:         mpk_task.grid @third [2] reads(%[[B]] : memref<8xf32>) writes(%[[C]] : memref<4xf32>)

// NONE:        builtin.module attributes {mpk.activations = {unshared = 112 : i64, live = 96 : i64, planned = 112 : i64}}
// NONE:        mpk_task.buffer scratch "c" : memref<4xf32>

// ORDER: mpk-opt: error: mpk-plan-memory: there is no order 'size' of memory
// ORDER-SAME: use data, program or none
func.func @chain() {
  %x = mpk_task.buffer input "x" : memref<2x8xf32>
  %a = mpk_task.buffer scratch "a" : memref<2x8xf32>
  %b = mpk_task.buffer scratch "b" : memref<8xf32>
  %c = mpk_task.buffer scratch "c" : memref<4xf32>
  %y = mpk_task.buffer output "y" : memref<4xf32>
  mpk_task.grid @first [2] reads(%x : memref<2x8xf32>) writes(%a : memref<2x8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xf32>):
    mpk_task.yield %0 : tensor<1x8xf32>
  }
  mpk_task.grid @second [2] reads(%a : memref<2x8xf32>) writes(%b : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<2x8xf32>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
    mpk_task.yield %1 : tensor<4xf32>
  }
  mpk_task.grid @third [2] reads(%b : memref<8xf32>) writes(%c : memref<4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
  ^bb0(%0 : tensor<8xf32>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<2xf32>
    mpk_task.yield %1 : tensor<2xf32>
  }
  mpk_task.grid @last [1] reads(%c : memref<4xf32>) writes(%y : memref<4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [4]>, #mpk_task.region<affine_map<(d0) -> (0)>, [4]>] {
  ^bb0(%0 : tensor<4xf32>):
    mpk_task.yield %0 : tensor<4xf32>
  }
  func.return
}

// -----

// Task i of @third needs task i of @second only: with @second's other task still reading %a, the memory
// of %a is not free without another wait.

// CHECK:       planned = 96 : i64
// CHECK-LABEL: func.func @tiles
// CHECK-NOT:   mpk_task.view
func.func @tiles() {
  %a = mpk_task.buffer scratch "a" : memref<8xf32>
  %b = mpk_task.buffer scratch "b" : memref<8xf32>
  %c = mpk_task.buffer scratch "c" : memref<8xf32>
  mpk_task.grid @first [2] writes(%a : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
    mpk_task.yield %0 : tensor<4xf32>
  }
  mpk_task.grid @second [2] reads(%a : memref<8xf32>) writes(%b : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<4xf32>):
    mpk_task.yield %0 : tensor<4xf32>
  }
  mpk_task.grid @third [2] reads(%b : memref<8xf32>) writes(%c : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<4xf32>):
    mpk_task.yield %0 : tensor<4xf32>
  }
  func.return
}
