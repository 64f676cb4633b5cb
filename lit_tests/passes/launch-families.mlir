// RUN: mpk-opt %s -p "mpk-launch-families{workers=2}" | filecheck %s

// Task i of each family goes to worker i mod 2, behind all of the families before; no events.

// CHECK:      builtin.module attributes {mpk.workers = 2 : i64}
// CHECK-NOT:  mpk_event
// CHECK:      mpk_task.grid @double [3]
// CHECK-SAME:   workers [0, 1, 0] slots [0, 0, 1]
// CHECK:      mpk_task.grid @add [2]
// CHECK-SAME:   workers [0, 1] slots [2, 1]
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<6xf32>
  %y = mpk_task.buffer scratch "y" : memref<6xf32>
  %z = mpk_task.buffer output "z" : memref<6xf32>
  mpk_task.grid @double [3] reads(%x : memref<6xf32>) writes(%y : memref<6xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>, #mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
  ^bb0(%0: tensor<2xf32>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb0(%2: f32):
      %3 = arith.addf %2, %2 : f32
      mpk_tensor.yield %3 : f32
    } : (tensor<2xf32>) -> tensor<2xf32>
    mpk_task.yield %1 : tensor<2xf32>
  }
  mpk_task.grid @add [2] reads(%x, %y : memref<6xf32>, memref<6xf32>) writes(%z : memref<6xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 3)>, [3]>, #mpk_task.region<affine_map<(d0) -> (d0 * 3)>, [3]>, #mpk_task.region<affine_map<(d0) -> (d0 * 3)>, [3]>] {
  ^bb0(%0: tensor<3xf32>, %1: tensor<3xf32>):
    %2 = mpk_tensor.elementwise %0, %1 {
    ^bb0(%3: f32, %4: f32):
      %5 = arith.addf %3, %4 : f32
      mpk_tensor.yield %5 : f32
    } : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    mpk_task.yield %2 : tensor<3xf32>
  }
  func.return
}
