// RUN: mpk-opt %s -p "mpk-fuse-operators,mpk-split-reductions{argmax_chunks=2},mpk-partition-tiles{workers=4}" | filecheck %s

// Three sequences in lock-step: each has a task of the embedding, with its own tokens, and of the
// attention, with its own cache. A linear takes all rows at once. One task merges the candidates of all
// rows, because it alone can see that the last of them has stopped.

// CHECK:       %[[S:.*]] = mpk_task.buffer state "tokens" initial -1 donated : memref<3x65xi64>
// CHECK:       mpk_task.grid @embedding [3] reads(
// CHECK-SAME:  #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 65]>, #mpk_task.region<affine_map<(d0) -> (d0, 0, 0)>, [1, 1, 32]>]
// CHECK:       tensor<1x65xi64>, tensor<1xi64>) -> tensor<1x1x32xbf16>
// CHECK:       mpk_task.grid @linear [4] reads(
// CHECK-SAME:  #mpk_task.region<affine_map<(d0) -> (0, 0, 0)>, [3, 1, 32]>
// CHECK:       mpk_task.grid @attention [3, 1] reads(
// CHECK:       mpk_task.grid @argmax_merge [1] reads({{.*}}, %[[S]] : memref<3x1x2xf32>, memref<3x1x2xi64>, memref<3x65xi64>)
// CHECK:       mpk_tensor.argmax_merge {{.*}} to tensor<3x65xi64> stop [2]

func.func @step() {
  %p = mpk_tensor.position : tensor<1xi64>
  %tokens = mpk_tensor.state "tokens" initial -1 : tensor<3x65xi64>
  %id = mpk_tensor.sequence_read %tokens at %p : (tensor<3x65xi64>, tensor<1xi64>) -> tensor<3x1xi64>
  %table = mpk_tensor.weight "embed" : tensor<64x32xbf16>
  %x = mpk_tensor.embedding %table, %id : (tensor<64x32xbf16>, tensor<3x1xi64>) -> tensor<3x1x32xbf16>
  %w = mpk_tensor.weight "q" : tensor<16x32xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<3x1x32xbf16>, [tensor<16x32xbf16>] to tensor<3x1x16xbf16>
  %q = mpk_tensor.reshape %y : tensor<3x1x16xbf16> to tensor<3x1x1x16xbf16>
  %kc = mpk_tensor.state "k" : tensor<3x1x16x16xbf16>
  %vc = mpk_tensor.state "v" : tensor<3x1x16x16xbf16>
  %a, %k, %v = mpk_tensor.attention %q, %q, %q cache %kc, %vc at %p scale 2.500000e-01
    : (tensor<3x1x1x16xbf16>, tensor<3x1x1x16xbf16>, tensor<3x1x1x16xbf16>, tensor<3x1x16x16xbf16>, tensor<3x1x16x16xbf16>, tensor<1xi64>)
    -> (tensor<3x1x1x16xbf16>, tensor<3x1x16x16xbf16>, tensor<3x1x16x16xbf16>)
  mpk_tensor.store_state "k", %k : tensor<3x1x16x16xbf16>
  mpk_tensor.store_state "v", %v : tensor<3x1x16x16xbf16>
  %h = mpk_tensor.weight "head" : tensor<64x16xbf16>
  %r = mpk_tensor.reshape %a : tensor<3x1x1x16xbf16> to tensor<3x1x16xbf16>
  %l = mpk_tensor.linear %r, [%h] : tensor<3x1x16xbf16>, [tensor<64x16xbf16>] to tensor<3x1x64xf32>
  %next = mpk_tensor.argmax %l : tensor<3x1x64xf32> to tensor<3x1xi64>
  %longer = mpk_tensor.sequence_append %tokens, %next at %p stop [2] : (tensor<3x65xi64>, tensor<3x1xi64>, tensor<1xi64>) -> tensor<3x65xi64>
  mpk_tensor.store_state "tokens", %longer : tensor<3x65xi64>
  func.return
}
