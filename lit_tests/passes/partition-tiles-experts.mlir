// RUN: mpk-opt %s -p 'mpk-partition-tiles{workers=4 max_rows=4}' | filecheck %s

// A grid of (slot, rows): the slot reads its expert's number and half of its row's work; a task's box of
// a weight spans all experts, from the weight's first row on. Where slots are summed up, the grid is
// (row of the result, rows of the weights).

// CHECK:      mpk_task.grid @expert_linear [6, 2]
// CHECK-SAME: affine_map<(d0, d1) -> ((d0 floordiv 3), 0)>, [1, 8]
// CHECK-SAME: affine_map<(d0, d1) -> (0, (d1 * 2), 0)>, [5, 2, 8]
// CHECK-SAME: affine_map<(d0, d1) -> (0, ((d1 * 2) + 4), 0)>, [5, 2, 8]
// CHECK-SAME: affine_map<(d0, d1) -> (d0)>, [1]
// CHECK-SAME: affine_map<(d0, d1) -> (d0, (d1 * 2))>, [1, 2]
// CHECK:      mpk_tensor.expert_linear %{{.*}}, [%{{.*}}, %{{.*}}] rows [0, 0] of
// CHECK-SAME: epilogue
// CHECK:      mpk_task.grid @expert_linear.1 [2, 2]
// CHECK-SAME: affine_map<(d0, d1) -> ((d0 * 3), 0)>, [3, 4]
// CHECK-SAME: affine_map<(d0, d1) -> (0, (d1 * 4), 0)>, [5, 4, 4]
// CHECK-SAME: affine_map<(d0, d1) -> ((d0 * 3))>, [3]
// CHECK-SAME: affine_map<(d0, d1) -> ((d0 * 3))>, [3]
// CHECK-SAME: affine_map<(d0, d1) -> (d0, (d1 * 4))>, [1, 4]
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<2x8xf32>
  %e = mpk_tensor.input "e" : tensor<6xi64>
  %c = mpk_tensor.input "c" : tensor<6xf32>
  %w = mpk_tensor.weight "w" : tensor<5x8x8xf32>
  %v = mpk_tensor.weight "v" : tensor<5x8x4xf32>
  %h = mpk_tensor.expert_linear %x, [%w, %w] rows [0, 4] of %e epilogue {
  ^bb0(%a : f32, %b : f32):
    %p = arith.mulf %a, %b : f32
    mpk_tensor.yield %p : f32
  } : tensor<2x8xf32>, [tensor<5x8x8xf32>, tensor<5x8x8xf32>], tensor<6xi64> to tensor<6x4xf32>
  %y = mpk_tensor.expert_linear %h, [%v] rows [0] of %e scaled %c : tensor<6xf32>
    : tensor<6x4xf32>, [tensor<5x8x4xf32>], tensor<6xi64> to tensor<2x8xf32>
  mpk_tensor.output "y", %y : tensor<2x8xf32>
  func.return
}
