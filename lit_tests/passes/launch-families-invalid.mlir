// RUN: not mpk-opt %s -p "mpk-launch-families{workers=2}" 2>&1 | filecheck %s

// Tasks of one kernel run at the same time: none may read what another one writes.

// CHECK: schedule: shift[0] (mpk_tensor.elementwise) and shift[1] (mpk_tensor.elementwise) touch
// CHECK-SAME: the same elements of 's', which one of them writes, and run at the same time
// CHECK-SAME: split the family
func.func @step() {
  %s = mpk_task.buffer state "s" donated : memref<4xf32>
  mpk_task.grid @shift [2] reads(%s : memref<4xf32>) writes(%s : memref<4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0)>, [2]>, #mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
  ^bb0(%0: tensor<2xf32>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb0(%2: f32):
      %3 = arith.addf %2, %2 : f32
      mpk_tensor.yield %3 : f32
    } : (tensor<2xf32>) -> tensor<2xf32>
    mpk_task.yield %1 : tensor<2xf32>
  }
  func.return
}
