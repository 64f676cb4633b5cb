// RUN: mpk-opt %s -p "mpk-split-reductions{argmax_chunks=2 argmax_best_of=8},mpk-partition-tiles{workers=3 max_rows=24}" | filecheck %s

// The tasks of a linear that keeps the best of 8 features each have a multiple of 8: they write results,
// candidates and where these are. Tasks that join say from which candidate on theirs are.

// CHECK:       mpk_task.grid @linear [3] reads({{.*}}) writes(%[[Y:.*]], %[[V:.*]], %[[I:.*]] : memref<2x40xf32>, memref<2x5xf32>, memref<2x5xi64>)
// CHECK-SAME:  #mpk_task.region<affine_map<(d0) -> (0, (d0 * 16))>, [2, 16]>, #mpk_task.region<affine_map<(d0) -> (0, (d0 * 2))>, [2, 2]>, #mpk_task.region<affine_map<(d0) -> (0, (d0 * 2))>, [2, 2]>]
// CHECK:         mpk_tensor.linear {{.*}} to tensor<2x16xf32> best of 8 to tensor<2x2xf32>, tensor<2x2xi64>
// CHECK:       mpk_task.grid @argmax_join [2] reads(%[[V]], %[[I]] : memref<2x5xf32>, memref<2x5xi64>)
// CHECK-SAME:  #mpk_task.region<affine_map<(d0) -> (0, (d0 * 3))>, [2, 3]>
// CHECK:         %[[O:.*]] = mpk_task.index 0
// CHECK-NEXT:    mpk_tensor.argmax_join chunk 3 part 8 {{.*}} origin %[[O]]
// CHECK:       mpk_task.grid @argmax_merge [1]
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<2x16xbf16>
  %w = mpk_tensor.weight "w" : tensor<40x16xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<2x16xbf16>, [tensor<40x16xbf16>] to tensor<2x40xf32>
  mpk_tensor.output "y", %y : tensor<2x40xf32>
  %i = mpk_tensor.argmax %y : tensor<2x40xf32> to tensor<2xi64>
  mpk_tensor.output "i", %i : tensor<2xi64>
  func.return
}
