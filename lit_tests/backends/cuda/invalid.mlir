// RUN: not mpk-opt %s -t mpk-cuda 2>&1 | filecheck %s

// What has no skeleton is named, with its shapes and the family that it came from.

// CHECK: family @count: 'mpk_tensor.reduce' of (tensor<4x8xi64>) -> (tensor<4x1xi64>) reduces elements that are not bf16, f16 or f32
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<4x8xi64>
  %y = mpk_task.buffer output "y" : memref<4x1xi64>
  mpk_task.grid @count [1] reads(%x : memref<4x8xi64>) writes(%y : memref<4x1xi64>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 1]>] {
  ^bb0(%0 : tensor<4x8xi64>):
    %1 = mpk_tensor.reduce sum %0 dims [1] : tensor<4x8xi64> to tensor<4x1xi64>
    mpk_task.yield %1 : tensor<4x1xi64>
  }
  func.return
}
