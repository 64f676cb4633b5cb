// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s

%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<9xbf16>
// CHECK: view keeps the number of elements, got memref<8xbf16> to memref<9xbf16>

// -----
"test.op"() {box = #mpk_task.region<affine_map<(d0) -> (d0)>, [1, 2]>} : () -> ()
// CHECK: a region has one offset for each size

// -----
"test.op"() {box = #mpk_task.region<affine_map<(d0) -> (d0)>, [0]>} : () -> ()
// CHECK: sizes of a region are positive, got (0,)

// -----
"test.op"() {box = #mpk_task.region<3 : i64, [1]>} : () -> ()
// CHECK: expected an affine map of offsets

// -----
"test.op"() {stream = #mpk_task.stream<[1], rows 2, parts 2>} : () -> ()
// CHECK: a stage is some whole rows, or a part of one row

// -----
mpk_task.ring slots 4 bytes 1024 in_flight 5
// CHECK: a ring has at least one stage in flight and no more than its slots

// -----
mpk_task.ring slots 4 bytes 1000 in_flight 4
// CHECK: a slot of the ring is a multiple of 16 bytes

// -----
mpk_task.grid @g [0] boxes [] {
  mpk_task.yield
}
// CHECK: grid @g has sizes (0,)

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
mpk_task.grid @g [2] reads(%x : memref<8xbf16>) boxes [] {
^bb0(%0 : tensor<4xbf16>):
  mpk_task.yield
}
// CHECK: grid @g touches 1 buffers and has 0 boxes

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
mpk_task.grid @g [2] reads(%x : memref<8xbf16>)
  boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0)>, [4, 1]>] {
^bb0(%0 : tensor<4xbf16>):
  mpk_task.yield
}
// CHECK: has not the rank of memref<8xbf16>

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
mpk_task.grid @g [2] reads(%x : memref<8xbf16>)
  boxes [#mpk_task.region<affine_map<(d0, d1) -> (d0)>, [4]>] {
^bb0(%0 : tensor<4xbf16>):
  mpk_task.yield
}
// CHECK: does not map a grid of rank 1

// -----
mpk_task.grid @g [2] boxes [] {
  mpk_tensor.yield
}
// CHECK: the body of a grid ends with mpk_task.yield

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
mpk_task.grid @g [2] reads(%x : memref<8xbf16>)
  boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
^bb0(%0 : tensor<5xbf16>):
  mpk_task.yield
}
// CHECK: the body takes (tensor<5xbf16>) when its boxes say (tensor<4xbf16>)

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
mpk_task.grid @g [2] writes(%x : memref<8xbf16>)
  boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  mpk_task.yield
}
// CHECK: the body yields () when its boxes say (tensor<4xbf16>)

// -----
mpk_task.grid @g [2] boxes [] waits [#mpk_event.edge<@e, affine_map<(d0, d1) -> (d0)>>] {
  mpk_task.yield
}
// CHECK: does not map a grid of rank 1

// -----
mpk_task.grid @g [2] boxes [] workers [0, 1, 2] slots [0, 0, 0] {
  mpk_task.yield
}
// CHECK: 3 placements for 2 tasks
