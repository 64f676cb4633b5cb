// RUN: mpk-opt %s -p mpk-verify-schedule | filecheck %s
// RUN: sed '/@sum .1. reads/s/edge<@e,/edge<@end,/' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix STUCK
// RUN: sed 's/waits .#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>.//' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix EARLY

// @sum has no worker: it runs anywhere, once both halves are written, and only its wait orders it.

// CHECK: mpk_task.grid @sum [1]
// CHECK-SAME: dynamic

// STUCK: deadlock: sum[0] (mpk_tensor.reduce) waits for ever for end[0], which waits for sum[0]
// EARLY: half[0] (mpk_tensor.full) may signal e[0] in the next step before half[1] (mpk_tensor.full) has in this one
module attributes {mpk.workers = 2} {
  func.func @step() {
    %x = mpk_task.buffer scratch "x" : memref<8xf32>
    %y = mpk_task.buffer output "y" : memref<1xf32>
    mpk_event.tensor @e counters 1 arrivals [2]
    mpk_event.tensor @end counters 1 arrivals [1]
    mpk_task.grid @half [2] writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] workers [0, 1] slots [0, 0] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %0 : tensor<4xf32>
    }
    mpk_task.grid @sum [1] reads(%x : memref<8xf32>) writes(%y : memref<1xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [1]>] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] dynamic {
    ^bb0(%0 : tensor<8xf32>):
      %1 = mpk_tensor.reduce sum %0 dims [0] : tensor<8xf32> to tensor<1xf32>
      mpk_task.yield %1 : tensor<1xf32>
    }
    func.return
  }
}
