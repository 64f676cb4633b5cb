// Two ranks of two workers: a gated product cut by rows, whose partial sums go into both ranks'
// memory, and an all-reduce of which each rank adds up its own copy.
//
//   x -> up -> down -+-> sum -> keep
//                    X
//   x -> up -> down -+-> sum -> keep
module attributes {mpk.workers = 2, mpk.mesh = {tp = 2}} {
func.func @step() {
  %x = mpk_task.buffer state "x" : memref<1x8xf32>
  %h = mpk_task.buffer scratch "h" : memref<1x16xf32>
  %u = mpk_task.buffer weight "u" : memref<16x8xf32>
  %v = mpk_task.buffer weight "v" : memref<8x16xf32>
  %p = mpk_task.buffer scratch "p" exchange : memref<2x1x8xf32>
  %k = mpk_task.buffer output "k" : memref<1x8xf32>
  %own = mpk_task.mine %p : memref<2x1x8xf32> to memref<1x8xf32>
  %p0 = mpk_task.view %p : memref<2x1x8xf32> to memref<1x8xf32>
  %p1 = mpk_task.view %p : memref<2x1x8xf32> to memref<1x8xf32, strided<[8, 1], offset: 8>>
  mpk_task.ring slots 4 bytes 128 in_flight 2
  mpk_event.tensor @h counters 1 arrivals [4]
  mpk_event.tensor @s counters 2 arrivals [1] handoff local
  mpk_event.tensor @parts counters 2 arrivals [2] handoff peer
  mpk_event.tensor @end counters 1 arrivals [4] handoff peer
  mpk_task.grid @up [4] reads(%x, %u : memref<1x8xf32>, memref<16x8xf32>)
    writes(%h : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]
    signals [#mpk_event.edge<@h, affine_map<(d0) -> (0)>>]
    workers [0, 1, 0, 1] slots [0, 0, 1, 1] stream <[1], rows 4, parts 1> {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<4x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @down [2] reads(%h, %v : memref<1x16xf32>, memref<8x16xf32>)
    writes(%own : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@h, affine_map<(d0) -> (0)>>]
    signals [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    workers [0, 1] slots [2, 2] stream <[1], rows 2, parts 1> {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<4x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<4x16xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @sum [2] reads(%p0, %p1 : memref<1x8xf32>, memref<1x8xf32, strided<[8, 1], offset: 8>>)
    writes(%x : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@s, affine_map<(d0) -> (d0)>>]
    workers [0, 1] slots [3, 3] {
  ^bb0(%0 : tensor<1x4xf32>, %1 : tensor<1x4xf32>):
    %2 = mpk_tensor.elementwise %0, %1 {
    ^bb1(%a : f32, %b : f32):
      %c = arith.addf %a, %b : f32
      mpk_tensor.yield %c : f32
    } : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @keep [2] reads(%x : memref<1x8xf32>)
    writes(%k : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@s, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
    workers [0, 1] slots [4, 4] {
  ^bb0(%0 : tensor<1x4xf32>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%a : f32):
      mpk_tensor.yield %a : f32
    } : (tensor<1x4xf32>) -> tensor<1x4xf32>
    mpk_task.yield %1 : tensor<1x4xf32>
  }
  func.return
}
}
