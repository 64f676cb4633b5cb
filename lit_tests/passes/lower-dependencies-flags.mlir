// RUN: mpk-opt %s -p mpk-lower-dependencies --split-input-file | filecheck %s

// Readers of a flagged buffer wait for no event; families that wait only so wait for the end of the
// step before. Everybody is followed by somebody who sees all that he flags, but @last: it alone ends
// the step. That @last overwrites what @first has read follows from the flags.

// CHECK-LABEL: func.func @chain
// CHECK-NOT:     mpk_event.tensor @e0
// CHECK:         mpk_event.tensor @end counters 1 arrivals [2]
// CHECK:         mpk_task.grid @first [2]
// CHECK-SAME:      waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals []
// CHECK:         mpk_task.grid @second [4]
// CHECK-SAME:      waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals []
// CHECK:         mpk_task.grid @last [2]
// CHECK-SAME:      waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
func.func @chain() {
  %s = mpk_task.buffer state "s" : memref<8xf32>
  %x = mpk_task.buffer scratch "x" flagged : memref<8xf32>
  %y = mpk_task.buffer scratch "y" flagged : memref<8xf32>
  mpk_task.grid @first [2] reads(%s : memref<8xf32>) writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<8xf32>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
    mpk_task.yield %1 : tensor<4xf32>
  }
  // Each of the four sees a half of what one of the two flags.
  mpk_task.grid @second [4] reads(%x : memref<8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>, #mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
  ^bb0(%0 : tensor<2xf32>):
    mpk_task.yield %0 : tensor<2xf32>
  }
  mpk_task.grid @last [2] reads(%y : memref<8xf32>) writes(%s : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<8xf32>):
    %1 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
    mpk_task.yield %1 : tensor<4xf32>
  }
  func.return
}

// -----

// A flag does not make other memory visible: @third comes after @first by flags, and still waits for the
// state that this has written. It sees one half of what @second flags: nobody knows that to be over.

// CHECK-LABEL: func.func @plain
// CHECK:         mpk_event.tensor @e0 counters 1 arrivals [1]
// CHECK-NEXT:    mpk_event.tensor @end counters 1 arrivals [2]
// CHECK:         mpk_task.grid @first [1]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @second [1]
// CHECK-SAME:      waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @third [1]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
func.func @plain() {
  %s = mpk_task.buffer state "s" : memref<8xf32>
  %x = mpk_task.buffer scratch "x" flagged : memref<8xf32>
  %y = mpk_task.buffer scratch "y" flagged : memref<8xf32>
  %z = mpk_task.buffer output "z" : memref<8xf32>
  mpk_task.grid @first [1] writes(%x, %s : memref<8xf32>, memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
    mpk_task.yield %0, %0 : tensor<8xf32>, tensor<8xf32>
  }
  mpk_task.grid @second [1] reads(%x : memref<8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
  ^bb0(%0 : tensor<8xf32>):
    mpk_task.yield %0 : tensor<8xf32>
  }
  mpk_task.grid @third [1] reads(%y, %s : memref<8xf32>, memref<8xf32>) writes(%z : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [4]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
  ^bb0(%0 : tensor<4xf32>, %1 : tensor<8xf32>):
    mpk_task.yield %1 : tensor<8xf32>
  }
  func.return
}
