// RUN: mpk-opt %s -p "mpk-pipeline-tasks,mpk-schedule-tasks{workers=2 policy=dynamic},mpk-verify-schedule" | filecheck %s
// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=2 policy=hybrid},mpk-verify-schedule" | filecheck %s --check-prefix HYBRID
// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=2 policy=dynamic},mpk-verify-schedule" -t mpk-table | filecheck %s --check-prefix TABLE
// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=2 policy=dynamic},mpk-schedule-tasks{workers=2}" | filecheck %s --check-prefix AGAIN

// Whoever begins a step has a place; the others are given out when @e fires, and do not stream.
// What is given out by hybrid depends on data: @late reads the position. @alone does too, but is
// one task.

// CHECK:      mpk_task.grid @begin [2]
// CHECK-SAME:   lag 1>] signals
// CHECK-SAME:   workers [0, 1] slots [0, 0]
// CHECK:      mpk_task.grid @product [2]
// CHECK-SAME:   waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>]
// CHECK-SAME:   dynamic {
// CHECK:      mpk_task.grid @late [2]
// CHECK-SAME:   dynamic {
// CHECK:      mpk_task.grid @alone [1]
// CHECK-SAME:   dynamic {

// HYBRID:      mpk_task.grid @begin [2]
// HYBRID-SAME:   workers
// HYBRID:      mpk_task.grid @product [2]
// HYBRID-SAME:   workers
// HYBRID:      mpk_task.grid @late [2]
// HYBRID-SAME:   dynamic {
// HYBRID:      mpk_task.grid @alone [1]
// HYBRID-SAME:   workers

// TABLE:      mpkt 2
// TABLE:      worker 1
// TABLE-NEXT:   begin[1]  wait end >= 5 lag 1  signal e += 1
// TABLE-EMPTY:
// TABLE-NEXT: dynamic
// TABLE-NEXT:   product[0]  wait e >= 2  signal end += 1
// TABLE-NEXT:   product[1]  wait e >= 2  signal end += 1
// TABLE-NEXT:   late[0]  wait e >= 2  signal end += 1
// TABLE-NEXT:   late[1]  wait e >= 2  signal end += 1
// TABLE-NEXT:   alone[0]  wait e >= 2  signal end += 1

// AGAIN-NOT:  dynamic
func.func @step() {
  %x = mpk_task.buffer scratch "x" : memref<1x128xbf16>
  %w = mpk_task.buffer weight "w" : memref<8x128xbf16>
  %y = mpk_task.buffer output "y" : memref<1x8xbf16>
  %p = mpk_task.buffer output "p" : memref<2xi64>
  %q = mpk_task.buffer output "q" : memref<1xi64>
  mpk_event.tensor @e counters 1 arrivals [2]
  mpk_event.tensor @end counters 1 arrivals [5]
  mpk_task.grid @begin [2] writes(%x : memref<1x128xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * 64)>, [1, 64]>] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] {
    %0 = mpk_tensor.full 1.0 : bf16 : tensor<1x64xbf16>
    mpk_task.yield %0 : tensor<1x64xbf16>
  }
  mpk_task.grid @product [2] reads(%x, %w : memref<1x128xbf16>, memref<8x128xbf16>) writes(%y : memref<1x8xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<4x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<4x128xbf16>] to tensor<1x4xbf16>
    mpk_task.yield %2 : tensor<1x4xbf16>
  }
  mpk_task.grid @late [2] writes(%p : memref<2xi64>) boxes [#mpk_task.region<affine_map<(d0) -> (d0)>, [1]>] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] {
    %0 = mpk_tensor.position : tensor<1xi64>
    mpk_task.yield %0 : tensor<1xi64>
  }
  mpk_task.grid @alone [1] writes(%q : memref<1xi64>) boxes [#mpk_task.region<affine_map<(d0) -> (d0)>, [1]>] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] {
    %0 = mpk_tensor.position : tensor<1xi64>
    mpk_task.yield %0 : tensor<1xi64>
  }
  func.return
}
