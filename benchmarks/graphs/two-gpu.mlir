// Two devices of two workers: a gated product cut by rows, its partial sums written into both
// devices' memory, an all-reduce of which each device adds up its own copy.
//
//   x0 -> up0 -> down0 -+-> sum0 -> keep0
//                       X
//   x1 -> up1 -> down1 -+-> sum1 -> keep1
module attributes {mpk.workers = 4, mpk.devices = 2} {
func.func @step() {
  %x0 = mpk_task.buffer state "x0" : memref<1x8xf32>
  %h0 = mpk_task.buffer scratch "h0" : memref<1x16xf32>
  %u0 = mpk_task.buffer weight "u0" : memref<16x8xf32>
  %v0 = mpk_task.buffer weight "v0" : memref<8x16xf32>
  %p0_0 = mpk_task.buffer scratch "p0_0" : memref<1x8xf32>
  %p1_0 = mpk_task.buffer scratch "p1_0" : memref<1x8xf32>
  %k0 = mpk_task.buffer output "k0" : memref<1x8xf32>
  %x1 = mpk_task.buffer state "x1" device 1 : memref<1x8xf32>
  %h1 = mpk_task.buffer scratch "h1" device 1 : memref<1x16xf32>
  %u1 = mpk_task.buffer weight "u1" device 1 : memref<16x8xf32>
  %v1 = mpk_task.buffer weight "v1" device 1 : memref<8x16xf32>
  %p0_1 = mpk_task.buffer scratch "p0_1" device 1 : memref<1x8xf32>
  %p1_1 = mpk_task.buffer scratch "p1_1" device 1 : memref<1x8xf32>
  %k1 = mpk_task.buffer output "k1" device 1 : memref<1x8xf32>
  mpk_task.ring slots 4 bytes 128 in_flight 2
  mpk_event.tensor @h0 counters 1 arrivals [4]
  mpk_event.tensor @s0 counters 2 arrivals [1] handoff local
  mpk_event.tensor @h1 counters 1 arrivals [4]
  mpk_event.tensor @s1 counters 2 arrivals [1] handoff local
  mpk_event.tensor @parts counters 2 arrivals [2] handoff peer
  mpk_event.tensor @end counters 1 arrivals [4] handoff peer
  mpk_task.grid @up0 [4] reads(%x0, %u0 : memref<1x8xf32>, memref<16x8xf32>)
    writes(%h0 : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]
    signals [#mpk_event.edge<@h0, affine_map<(d0) -> (0)>>]
    workers [0, 1, 0, 1] slots [0, 0, 1, 1] stream <[1], rows 4, parts 1> {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<4x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @up1 [4] reads(%x1, %u1 : memref<1x8xf32>, memref<16x8xf32>)
    writes(%h1 : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]
    signals [#mpk_event.edge<@h1, affine_map<(d0) -> (0)>>]
    workers [2, 3, 2, 3] slots [0, 0, 1, 1] stream <[1], rows 4, parts 1> {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<4x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @down0 [2] reads(%h0, %v0 : memref<1x16xf32>, memref<8x16xf32>)
    writes(%p0_0, %p0_1 : memref<1x8xf32>, memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@h0, affine_map<(d0) -> (0)>>]
    signals [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    workers [0, 1] slots [2, 2] stream <[1], rows 2, parts 1> {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<4x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<4x16xf32>] to tensor<1x4xf32>
    mpk_task.yield %2, %2 : tensor<1x4xf32>, tensor<1x4xf32>
  }
  mpk_task.grid @down1 [2] reads(%h1, %v1 : memref<1x16xf32>, memref<8x16xf32>)
    writes(%p1_0, %p1_1 : memref<1x8xf32>, memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@h1, affine_map<(d0) -> (0)>>]
    signals [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    workers [2, 3] slots [2, 2] stream <[1], rows 2, parts 1> {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<4x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<4x16xf32>] to tensor<1x4xf32>
    mpk_task.yield %2, %2 : tensor<1x4xf32>, tensor<1x4xf32>
  }
  mpk_task.grid @sum0 [2] reads(%p0_0, %p1_0 : memref<1x8xf32>, memref<1x8xf32>)
    writes(%x0 : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@s0, affine_map<(d0) -> (d0)>>]
    workers [0, 1] slots [3, 3] {
  ^bb0(%0 : tensor<1x4xf32>, %1 : tensor<1x4xf32>):
    %2 = mpk_tensor.elementwise %0, %1 {
    ^bb1(%a : f32, %b : f32):
      %c = arith.addf %a, %b : f32
      mpk_tensor.yield %c : f32
    } : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @sum1 [2] reads(%p0_1, %p1_1 : memref<1x8xf32>, memref<1x8xf32>)
    writes(%x1 : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@parts, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@s1, affine_map<(d0) -> (d0)>>]
    workers [2, 3] slots [3, 3] {
  ^bb0(%0 : tensor<1x4xf32>, %1 : tensor<1x4xf32>):
    %2 = mpk_tensor.elementwise %0, %1 {
    ^bb1(%a : f32, %b : f32):
      %c = arith.addf %a, %b : f32
      mpk_tensor.yield %c : f32
    } : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @keep0 [2] reads(%x0 : memref<1x8xf32>)
    writes(%k0 : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@s0, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
    workers [0, 1] slots [4, 4] {
  ^bb0(%0 : tensor<1x4xf32>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%a : f32):
      mpk_tensor.yield %a : f32
    } : (tensor<1x4xf32>) -> tensor<1x4xf32>
    mpk_task.yield %1 : tensor<1x4xf32>
  }
  mpk_task.grid @keep1 [2] reads(%x1 : memref<1x8xf32>)
    writes(%k1 : memref<1x8xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>]
    waits [#mpk_event.edge<@s1, affine_map<(d0) -> (d0)>>]
    signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
    workers [2, 3] slots [4, 4] {
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
