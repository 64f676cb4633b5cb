// RUN: not mpk-opt %s -t mpk-cuda 2>&1 | filecheck %s

// An operator without a skeleton is named, with its shapes and the family that it came from.

// CHECK: family @sdpa: 'mpk_tensor.sdpa' of (tensor<1x2x1x8xbf16>, tensor<1x2x4x8xbf16>, tensor<1x2x4x8xbf16>) -> (tensor<1x2x1x8xbf16>) has no form on a GPU
func.func @step() {
  %q = mpk_task.buffer input "q" : memref<1x2x1x8xbf16>
  %k = mpk_task.buffer input "k" : memref<1x2x4x8xbf16>
  %y = mpk_task.buffer output "y" : memref<1x2x1x8xbf16>
  mpk_task.grid @sdpa [1] reads(%q, %k : memref<1x2x1x8xbf16>, memref<1x2x4x8xbf16>) writes(%y : memref<1x2x1x8xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 2, 1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 2, 4, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0, 0, 0)>, [1, 2, 1, 8]>] {
  ^bb0(%0 : tensor<1x2x1x8xbf16>, %1 : tensor<1x2x4x8xbf16>):
    %2 = mpk_tensor.sdpa %0, %1, %1 scale 0.5 : (tensor<1x2x1x8xbf16>, tensor<1x2x4x8xbf16>, tensor<1x2x4x8xbf16>) -> tensor<1x2x1x8xbf16>
    mpk_task.yield %2 : tensor<1x2x1x8xbf16>
  }
  func.return
}
