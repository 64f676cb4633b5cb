// RUN: mpk-opt %s -p 'mpk-lay-out-flags{brief_bf16_from=1}' --split-input-file | filecheck %s
// RUN: mpk-opt %s -p mpk-lay-out-flags --split-input-file | filecheck %s --check-prefix=WIDE
// RUN: mpk-opt %s -p 'mpk-lay-out-flags{brief_bf16_from=1 apart_up_to=8}' --split-input-file | filecheck %s --check-prefix=LESS
// RUN: mpk-opt %s -p 'mpk-lay-out-flags{brief_bf16_from=1 apart_up_to=24 panels=false}' --split-input-file | filecheck %s --check-prefix=LONG

// What products read of small tasks is brief and lies apart, f32, bf16 (of as many tokens as it is to be from) and not
// f16, which has no bit to spare; what one task writes as a whole lies alike, so that its readers share
// their code. What a softmax reads stays as it is.

// CHECK-LABEL: func.func @products
// CHECK:         mpk_task.buffer scratch "x" flagged brief apart 8 : memref<1x32xf32>
// CHECK:         mpk_task.buffer scratch "y" flagged brief apart 8 : memref<1x32xf32>
// CHECK:         mpk_task.buffer scratch "h" flagged brief apart 16 : memref<1x32xbf16>
// CHECK:         mpk_task.buffer scratch "f16" flagged apart 8 : memref<1x32xf16>
// CHECK:         mpk_task.buffer scratch "wide" flagged : memref<1x32xf32>
// WIDE:          mpk_task.buffer scratch "y" flagged brief apart 8 : memref<1x32xf32>
// WIDE:          mpk_task.buffer scratch "h" flagged apart 16 : memref<1x32xbf16>
// LESS:          mpk_task.buffer scratch "y" flagged brief apart 8 : memref<1x32xf32>
// LESS:          mpk_task.buffer scratch "h" flagged brief : memref<1x32xbf16>
func.func @products() {
  %in = mpk_task.buffer input "in" : memref<1x32xf32>
  %w = mpk_task.buffer weight "w" : memref<32x32xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<1x32xf32>
  %y = mpk_task.buffer scratch "y" flagged : memref<1x32xf32>
  %h = mpk_task.buffer scratch "h" flagged : memref<1x32xbf16>
  %f16 = mpk_task.buffer scratch "f16" flagged : memref<1x32xf16>
  %wide = mpk_task.buffer scratch "wide" flagged : memref<1x32xf32>
  %out = mpk_task.buffer output "out" : memref<1x32xf32>
  mpk_task.grid @norm [1] reads(%in : memref<1x32xf32>) writes(%x : memref<1x32xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>] {
  ^bb0(%0 : tensor<1x32xf32>):
    %1 = mpk_tensor.rms_norm %0 eps 1.000000e-05 : (tensor<1x32xf32>) -> tensor<1x32xf32>
    mpk_task.yield %1 : tensor<1x32xf32>
  }
  mpk_task.grid @linear [4] reads(%x, %w : memref<1x32xf32>, memref<32x32xbf16>) writes(%y : memref<1x32xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 32]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x32xf32>, %1 : tensor<8x32xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x32xf32>, [tensor<8x32xbf16>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @linear.1 [2] reads(%y, %w : memref<1x32xf32>, memref<32x32xbf16>) writes(%h : memref<1x32xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 32]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [1, 16]>] {
  ^bb0(%0 : tensor<1x32xf32>, %1 : tensor<16x32xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x32xf32>, [tensor<16x32xbf16>] to tensor<1x16xbf16>
    mpk_task.yield %2 : tensor<1x16xbf16>
  }
  mpk_task.grid @linear.2 [4] reads(%h, %w : memref<1x32xbf16>, memref<32x32xbf16>) writes(%f16 : memref<1x32xf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 32]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x32xbf16>, %1 : tensor<8x32xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x32xbf16>, [tensor<8x32xbf16>] to tensor<1x8xf16>
    mpk_task.yield %2 : tensor<1x8xf16>
  }
  mpk_task.grid @linear.3 [4] reads(%f16, %w : memref<1x32xf16>, memref<32x32xbf16>) writes(%wide : memref<1x32xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 32]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x32xf16>, %1 : tensor<8x32xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x32xf16>, [tensor<8x32xbf16>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @softmax [1] reads(%wide : memref<1x32xf32>) writes(%out : memref<1x32xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>] {
  ^bb0(%0 : tensor<1x32xf32>):
    %1 = mpk_tensor.softmax %0 : tensor<1x32xf32> to tensor<1x32xf32>
    mpk_task.yield %1 : tensor<1x32xf32>
  }
  func.return
}

// -----
// Groups of 24 lie apart where they may, but not of many tokens where these lie in no panels.

// LONG-LABEL: func.func @long
// LONG:         mpk_task.buffer scratch "h" flagged brief apart 24 : memref<1x96xbf16>
// LONG:         mpk_task.buffer scratch "many" flagged brief : memref<8x96xbf16>
func.func @long() {
  %w = mpk_task.buffer weight "w" : memref<96x96xbf16>
  %h = mpk_task.buffer scratch "h" flagged : memref<1x96xbf16>
  %many = mpk_task.buffer scratch "many" flagged : memref<8x96xbf16>
  %in = mpk_task.buffer input "in" : memref<1x96xbf16>
  %in8 = mpk_task.buffer input "in8" : memref<8x96xbf16>
  %out = mpk_task.buffer output "out" : memref<1x96xbf16>
  %out8 = mpk_task.buffer output "out8" : memref<8x96xbf16>
  mpk_task.grid @one [4] reads(%in, %w : memref<1x96xbf16>, memref<96x96xbf16>) writes(%h : memref<1x96xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 96]>, #mpk_task.region<affine_map<(d0) -> (d0 * 24, 0)>, [24, 96]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 24)>, [1, 24]>] {
  ^bb0(%0 : tensor<1x96xbf16>, %1 : tensor<24x96xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x96xbf16>, [tensor<24x96xbf16>] to tensor<1x24xbf16>
    mpk_task.yield %2 : tensor<1x24xbf16>
  }
  mpk_task.grid @one.1 [4] reads(%h, %w : memref<1x96xbf16>, memref<96x96xbf16>) writes(%out : memref<1x96xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 96]>, #mpk_task.region<affine_map<(d0) -> (d0 * 24, 0)>, [24, 96]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 24)>, [1, 24]>] {
  ^bb0(%0 : tensor<1x96xbf16>, %1 : tensor<24x96xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x96xbf16>, [tensor<24x96xbf16>] to tensor<1x24xbf16>
    mpk_task.yield %2 : tensor<1x24xbf16>
  }
  mpk_task.grid @eight [4] reads(%in8, %w : memref<8x96xbf16>, memref<96x96xbf16>) writes(%many : memref<8x96xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 96]>, #mpk_task.region<affine_map<(d0) -> (d0 * 24, 0)>, [24, 96]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 24)>, [8, 24]>] {
  ^bb0(%0 : tensor<8x96xbf16>, %1 : tensor<24x96xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x96xbf16>, [tensor<24x96xbf16>] to tensor<8x24xbf16>
    mpk_task.yield %2 : tensor<8x24xbf16>
  }
  mpk_task.grid @eight.1 [4] reads(%many, %w : memref<8x96xbf16>, memref<96x96xbf16>) writes(%out8 : memref<8x96xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 96]>, #mpk_task.region<affine_map<(d0) -> (d0 * 24, 0)>, [24, 96]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 24)>, [8, 24]>] {
  ^bb0(%0 : tensor<8x96xbf16>, %1 : tensor<24x96xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x96xbf16>, [tensor<24x96xbf16>] to tensor<8x24xbf16>
    mpk_task.yield %2 : tensor<8x24xbf16>
  }
  func.return
}
