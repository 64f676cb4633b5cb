// RUN: mpk-opt %s -p mpk-lower-dependencies --split-input-file | filecheck %s

// A fork and a join through tiles of 4: task i of each branch waits for task i of the source only,
// the last family reads all. Nobody precedes the source, so it waits for the end of the step before.

// CHECK-LABEL: func.func @fork_join
// CHECK:         mpk_event.tensor @e0 counters 4 arrivals [1]
// CHECK-NEXT:    mpk_event.tensor @e1 counters 2 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @e2 counters 1 arrivals [4]
// CHECK-NEXT:    mpk_event.tensor @e3 counters 1 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @end counters 1 arrivals [1]
// CHECK:         mpk_task.grid @source [4]
// CHECK-SAME:      waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@e1, affine_map<(d0) -> ((d0 floordiv 2))>>]
// CHECK:         mpk_task.grid @left [4]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> (d0)>>]
// CHECK-SAME:      signals [#mpk_event.edge<@e2, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @right [2]
// CHECK-SAME:      waits [#mpk_event.edge<@e1, affine_map<(d0) -> (d0)>>]
// CHECK-SAME:      signals [#mpk_event.edge<@e3, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @sink [1]
// CHECK-SAME:      waits [#mpk_event.edge<@e2, affine_map<(d0) -> (0)>>, #mpk_event.edge<@e3, affine_map<(d0) -> (0)>>]
// CHECK-SAME:      signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
func.func @fork_join() {
  %x = mpk_task.buffer scratch "x" : memref<16xf32>
  %y = mpk_task.buffer scratch "y" : memref<16xf32>
  %z = mpk_task.buffer scratch "z" : memref<16xf32>
  %s = mpk_task.buffer output "s" : memref<1xf32>
  mpk_task.grid @source [4] writes(%x : memref<16xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<4xf32>
    mpk_task.yield %0 : tensor<4xf32>
  }
  mpk_task.grid @left [4] reads(%x : memref<16xf32>) writes(%y : memref<16xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  ^bb0(%0 : tensor<4xf32>):
    mpk_task.yield %0 : tensor<4xf32>
  }
  mpk_task.grid @right [2] reads(%x : memref<16xf32>) writes(%z : memref<16xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 8)>, [8]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8)>, [8]>] {
  ^bb0(%0 : tensor<8xf32>):
    mpk_task.yield %0 : tensor<8xf32>
  }
  mpk_task.grid @sink [1] reads(%y, %z : memref<16xf32>, memref<16xf32>) writes(%s : memref<1xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [16]>, #mpk_task.region<affine_map<(d0) -> (0)>, [16]>, #mpk_task.region<affine_map<(d0) -> (0)>, [1]>] {
  ^bb0(%0 : tensor<16xf32>, %1 : tensor<16xf32>):
    %2 = mpk_tensor.full 1.0 : f32 : tensor<1xf32>
    mpk_task.yield %2 : tensor<1xf32>
  }
  func.return
}

// -----

// Write after read, then write after write: @again must not overwrite what @reader still reads. Its
// order after @first follows from both other edges, so there is no third event.

// CHECK-LABEL: func.func @overwrite
// CHECK:         mpk_event.tensor @e0 counters 1 arrivals [1]
// CHECK-NEXT:    mpk_event.tensor @e1 counters 1 arrivals [1]
// CHECK-NEXT:    mpk_event.tensor @end counters 1 arrivals [2]
// CHECK:         mpk_task.grid @first [1]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @reader [1]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> (0)>>]
// CHECK-SAME:      signals [#mpk_event.edge<@e1, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @again [2]
// CHECK-SAME:      waits [#mpk_event.edge<@e1, affine_map<(d0) -> (0)>>]
// CHECK-SAME:      signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>]
func.func @overwrite() {
  %x = mpk_task.buffer scratch "x" : memref<8xf32>
  %y = mpk_task.buffer scratch "y" : memref<8xf32>
  mpk_task.grid @first [1] writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
    mpk_task.yield %0 : tensor<8xf32>
  }
  mpk_task.grid @reader [1] reads(%x : memref<8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
  ^bb0(%0 : tensor<8xf32>):
    mpk_task.yield %0 : tensor<8xf32>
  }
  mpk_task.grid @again [2] writes(%x : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
    %0 = mpk_tensor.full 2.0 : f32 : tensor<4xf32>
    mpk_task.yield %0 : tensor<4xf32>
  }
  func.return
}

// -----

// Through a view: heads of 12 over tiles of 8, so two heads share a tile and three tiles make a group
// of two heads; the last tile and head are ragged. The middle tile is the only one that both wait for.

// CHECK-LABEL: func.func @heads
// CHECK:         mpk_event.tensor @e0 counters 2 arrivals [3, 2] orders 8 where 6 conflict
// CHECK:         mpk_task.grid @tiles [5]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> ((d0 floordiv 3))>>]
// CHECK:         mpk_task.grid @heads [3]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> ((d0 floordiv 2))>>]
func.func @heads() {
  %x = mpk_task.buffer scratch "x" : memref<1x36xf32>
  %y = mpk_task.buffer scratch "y" : memref<3x12xf32>
  %v = mpk_task.view %x : memref<1x36xf32> to memref<3x12xf32>
  mpk_task.grid @tiles [5] writes(%x : memref<1x36xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<1x8xf32>
    mpk_task.yield %0 : tensor<1x8xf32>
  }
  mpk_task.grid @heads [3] reads(%v : memref<3x12xf32>) writes(%y : memref<3x12xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 12]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 12]>] {
  ^bb0(%0 : tensor<1x12xf32>):
    mpk_task.yield %0 : tensor<1x12xf32>
  }
  func.return
}

// -----

// Groups that come again: tasks 0, 1, 2, 3 belong to groups 0, 1, 1, 0.

// CHECK-LABEL: func.func @again
// CHECK:         mpk_event.tensor @e0 counters 2 arrivals [2]
// CHECK:         mpk_task.grid @a [4]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> ((((d0 + 1) floordiv 2) mod 2))>>]
func.func @again() {
  %x = mpk_task.buffer scratch "x" : memref<4xf32>
  %y = mpk_task.buffer scratch "y" : memref<2x2xf32>
  mpk_task.grid @a [4] writes(%x : memref<4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> ((d0 * 3) mod 4)>, [1]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<1xf32>
    mpk_task.yield %0 : tensor<1xf32>
  }
  mpk_task.grid @b [2] reads(%x : memref<4xf32>) writes(%y : memref<2x2xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 2]>] {
  ^bb0(%0 : tensor<2xf32>):
    %1 = mpk_tensor.reshape %0 : tensor<2xf32> to tensor<1x2xf32>
    mpk_task.yield %1 : tensor<1x2xf32>
  }
  func.return
}

// -----

// Groups 0, 1, 0, 2, 1 at places without any rule: a map of steps, one at each change.

// CHECK-LABEL: func.func @steps
// CHECK:         mpk_event.tensor @e0 counters 3 arrivals [2, 2, 1]
// CHECK:         mpk_task.grid @a [5]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0) -> ((((((d0 + 4) floordiv 5) + (((d0 + 3) floordiv 5) * -1)) + (((d0 + 2) floordiv 5) * 2)) + (((d0 + 1) floordiv 5) * -1)))>>]
func.func @steps() {
  %x = mpk_task.buffer scratch "x" : memref<5xf32>
  %y = mpk_task.buffer scratch "y" : memref<3x2xf32>
  mpk_task.grid @a [5] writes(%x : memref<5xf32>) boxes [#mpk_task.region<affine_map<(d0) -> ((d0 * 3) mod 5)>, [1]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<1xf32>
    mpk_task.yield %0 : tensor<1xf32>
  }
  mpk_task.grid @b [3] reads(%x : memref<5xf32>) writes(%y : memref<3x2xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 2]>] {
  ^bb0(%0 : tensor<2xf32>):
    %1 = mpk_tensor.reshape %0 : tensor<2xf32> to tensor<1x2xf32>
    mpk_task.yield %1 : tensor<1x2xf32>
  }
  func.return
}

// -----

// Tiles of 5 over heads of 16: every tile but the first of a head straddles, so that all are
// connected, though a head meets 4 or 5 of the 13 tiles only.

// CHECK-LABEL: func.func @straddling
// CHECK:         mpk_event.tensor @e0 counters 1 arrivals [13] orders 52 where 16 conflict
func.func @straddling() {
  %x = mpk_task.buffer scratch "x" : memref<64xf32>
  %y = mpk_task.buffer scratch "y" : memref<4x16xf32>
  %v = mpk_task.view %x : memref<64xf32> to memref<4x16xf32>
  mpk_task.grid @tiles [13] writes(%x : memref<64xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 5)>, [5]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<5xf32>
    mpk_task.yield %0 : tensor<5xf32>
  }
  mpk_task.grid @heads [4] reads(%v : memref<4x16xf32>) writes(%y : memref<4x16xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 16]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 16]>] {
  ^bb0(%0 : tensor<1x16xf32>):
    mpk_task.yield %0 : tensor<1x16xf32>
  }
  func.return
}

// -----

// Slices and a transpose: the readers of the second half of each row wait for the two tiles there.
// Nobody waits for the others in the step, so the tiles also signal its end.

// CHECK-LABEL: func.func @halves
// CHECK:         mpk_event.tensor @e0 counters 4 arrivals [4]
// CHECK-NEXT:    mpk_event.tensor @end counters 1 arrivals [18]
// CHECK:         mpk_task.grid @tiles [4, 4]
// CHECK-SAME:      signals [#mpk_event.edge<@e0, affine_map<(d0, d1) -> (d1)>>, #mpk_event.edge<@end, affine_map<(d0, d1) -> (0)>>]
// CHECK:         mpk_task.grid @columns [2]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> ((d0 + 2))>>]
func.func @halves() {
  %x = mpk_task.buffer scratch "x" : memref<4x16xf32>
  %y = mpk_task.buffer scratch "y" : memref<8x4xf32>
  %v = mpk_task.view %x : memref<4x16xf32> to memref<8x4xf32, strided<[1, 16], offset: 8>>
  mpk_task.grid @tiles [4, 4] writes(%x : memref<4x16xf32>) boxes [#mpk_task.region<affine_map<(d0, d1) -> (d0, d1 * 4)>, [1, 4]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<1x4xf32>
    mpk_task.yield %0 : tensor<1x4xf32>
  }
  mpk_task.grid @columns [2] reads(%v : memref<8x4xf32, strided<[1, 16], offset: 8>>) writes(%y : memref<8x4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 4]>, #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 4]>] {
  ^bb0(%0 : tensor<4x4xf32>):
    mpk_task.yield %0 : tensor<4x4xf32>
  }
  func.return
}

// -----

// A fused projection: four tiles of queries, two of keys, two of values; each head reads a slice of
// each and waits for just its tiles.

// CHECK-LABEL: func.func @fused
// CHECK:         mpk_event.tensor @e0 counters 2 arrivals [4]
// CHECK-NOT:     orders
// CHECK:         mpk_task.grid @heads [2]
// CHECK-SAME:      waits [#mpk_event.edge<@e0, affine_map<(d0) -> (d0)>>]
func.func @fused() {
  %x = mpk_task.buffer scratch "x" : memref<16xf32>
  %y = mpk_task.buffer scratch "y" : memref<2x4xf32>
  %q = mpk_task.view %x : memref<16xf32> to memref<2x4xf32>
  %k = mpk_task.view %x : memref<16xf32> to memref<2x2xf32, strided<[2, 1], offset: 8>>
  %v = mpk_task.view %x : memref<16xf32> to memref<2x2xf32, strided<[2, 1], offset: 12>>
  mpk_task.grid @tiles [8] writes(%x : memref<16xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
    %0 = mpk_tensor.full 1.0 : f32 : tensor<2xf32>
    mpk_task.yield %0 : tensor<2xf32>
  }
  mpk_task.grid @heads [2] reads(%q, %k, %v : memref<2x4xf32>, memref<2x2xf32, strided<[2, 1], offset: 8>>, memref<2x2xf32, strided<[2, 1], offset: 12>>) writes(%y : memref<2x4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 4]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 2]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 2]>, #mpk_task.region<affine_map<(d0) -> (d0, 0)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x4xf32>, %1 : tensor<1x2xf32>, %2 : tensor<1x2xf32>):
    mpk_task.yield %0 : tensor<1x4xf32>
  }
  func.return
}
