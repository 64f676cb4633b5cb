// RUN: mpk-opt %s -p mpk-verify-schedule | filecheck %s
// RUN: sed 's/waits \[#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>\] workers \[1, 0\]/workers [1, 0]/' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix GATE
// RUN: sed 's/scratch "y"/& flagged/; s/@late .1./@late [2]/; s/arrivals .3./arrivals [4]/; s/workers .1. slots .2./workers [1, 1] slots [2, 3]/' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix TWICE
// RUN: sed 's/arrivals .3./arrivals [2]/; s/signals .*workers .1. slots/workers [1] slots/' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix AGAIN
// RUN: sed 's/workers \[1, 0\] slots \[0, 0\]/workers [0, 0] slots [0, 2]/; s/workers \[0, 1\] slots \[1, 1\]/workers [0, 1] slots [1, 0]/; s/slots \[2\]/slots [1]/' %s | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix STUCK

// A flagged buffer orders who reads it: no event within the step. The first task of each worker waits
// for the end of the step before, which @second signals, whose tasks have seen all that @first flags, and @late,
// whom nobody waits for.

// CHECK: mpk_task.buffer scratch "x" flagged : memref<8xf32>
// GATE: worker 0 may begin a step that must not run: first[1] (mpk_tensor.full), its first task, waits for no event
// GATE-SAME: let first[1] wait, with lag 1, for the end of the step
// TWICE: late[0] (mpk_tensor.full) and late[1] (mpk_tensor.full) write the same elements of 'y', which is flagged
// AGAIN: worker 0 may begin a step that must not run
// STUCK: deadlock: second[0] (mpk_tensor.full) waits for ever for elements of 'x', which wait for first[1] (mpk_tensor.full) on worker 0, which stands behind second[0]
module attributes {mpk.workers = 2} {
  func.func @step() {
    %x = mpk_task.buffer scratch "x" flagged : memref<8xf32>
    %y = mpk_task.buffer scratch "y" : memref<8xf32>
    %z = mpk_task.buffer output "z" : memref<8xf32>
    mpk_event.tensor @end counters 1 arrivals [3]
    mpk_task.grid @first [2] writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] workers [1, 0] slots [0, 0] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %0 : tensor<4xf32>
    }
    mpk_task.grid @second [2] reads(%x : memref<8xf32>) writes(%z : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [0, 1] slots [1, 1] {
    ^bb0(%0 : tensor<8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
      mpk_task.yield %1 : tensor<4xf32>
    }
    mpk_task.grid @late [1] writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] workers [1] slots [2] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %0 : tensor<8xf32>
    }
    func.return
  }
}
