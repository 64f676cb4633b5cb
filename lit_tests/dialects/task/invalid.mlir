// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s

%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<9xbf16>
// CHECK: view reaches element 8 of memref<8xbf16>, which has 8

// -----
%x = mpk_task.buffer scratch "x" : memref<4x8xbf16>
%y = mpk_task.view %x : memref<4x8xbf16> to memref<4x4xbf16, strided<[8, 1], offset: 5>>
// CHECK: view reaches element 32 of memref<4x8xbf16>, which has 32

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4xbf16>
%z = mpk_task.view %y : memref<4xbf16> to memref<6x2xbf16>
// CHECK: view reaches element 11 of memref<8xbf16>, which has 8

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<8xf32>
// CHECK: view keeps the type of elements, got memref<8xbf16> to memref<8xf32>

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4x2xbf16, strided<[1, 1]>>
// CHECK: two indices of memref<4x2xbf16, strided<[1, 1]>> are one element; only a stride of 0 repeats elements

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4x2xbf16, strided<[1]>>
// CHECK: memref<4x2xbf16, strided<[1]>> has 1 strides for 2 dimensions

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4xbf16, strided<[1], offset: ?>>
// CHECK: strides and offset of a view are constants from 0, got memref<4xbf16, strided<[1], offset: ?>>

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4xbf16, affine_map<(d0) -> (d0)>>
// CHECK: the layout of a view is strided, got memref<4xbf16, affine_map<(d0) -> (d0)>>

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<0xbf16>
// CHECK: sizes of a view are positive, got memref<0xbf16>

// -----
%x = "test.op"() : () -> (memref<8xbf16>)
%y = mpk_task.view %x : memref<8xbf16> to memref<4xbf16>
// CHECK: a view is of a buffer, of a rank's row or of another view

// -----
%x = mpk_task.buffer scratch "x" : memref<4xbf16, strided<[2]>>
// CHECK: a buffer is row-major, got memref<4xbf16, strided<[2]>>

// -----
%x = mpk_task.buffer scratch "x" : memref<8xbf16>
%y = mpk_task.view %x : memref<8xbf16> to memref<4x8xbf16, strided<[0, 1]>>
mpk_task.grid @g [1] writes(%y : memref<4x8xbf16, strided<[0, 1]>>)
  boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 8]>] {
  %0 = mpk_tensor.full 1.0 : bf16 : tensor<4x8xbf16>
  mpk_task.yield %0 : tensor<4x8xbf16>
}
// CHECK: grid @g writes memref<4x8xbf16, strided<[0, 1]>>, which repeats elements

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
// CHECK: a stage is some whole rows, a part of one row, or of 8 packed rows

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

// -----
mpk_task.grid @g [2] boxes [] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>, lag 1>] dynamic {
  mpk_task.yield
}
// CHECK: dynamic grid @g waits for no event of its own step

// -----
mpk_task.grid @g [2] boxes [] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] workers [0, 1] slots [0, 0] dynamic {
  mpk_task.yield
}
// CHECK: dynamic grid @g has workers, slots or a stream

// -----
%x = mpk_task.buffer input "x" donated : memref<8xbf16>
// CHECK: only a state is donated, not input "x"

// -----
%w = mpk_task.buffer weight "w" : memref<8xbf16>
mpk_task.grid @g [2] writes(%w : memref<8xbf16>)
  boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 4)>, [4]>] {
  %0 = mpk_tensor.full 1.0 : bf16 : tensor<4xbf16>
  mpk_task.yield %0 : tensor<4xbf16>
}
// CHECK: grid @g writes weight "w", which keeps what it is given

// -----
%x = mpk_task.buffer state "x" flagged : memref<8xbf16>
// CHECK: only a scratch buffer is flagged, not state "x"

// -----
%x = mpk_task.buffer scratch "x" flagged : memref<8xi64>
// CHECK: elements of a flagged buffer are bf16, f16 or f32, not i64

// -----
%x = mpk_task.buffer scratch "x" flagged brief : memref<8xf16>
// CHECK: only bf16 and f32 are brief, not f16

// -----
%x = mpk_task.buffer scratch "x" flagged apart 24 : memref<48xf32>
// CHECK: groups of 24 elements do not divide memref<48xf32>, do not fit a line

// -----
%x = mpk_task.buffer scratch "x" flagged panels <8 of 48> : memref<8x48xf32>
// CHECK: panels are of 8 or 32 columns, of a multiple of 32 in all, not 8 of 48

// -----
%x = mpk_task.buffer scratch "x" flagged panels <16 of 64> : memref<8x64xf32>
// CHECK: panels are of 8 or 32 columns, of a multiple of 32 in all, not 16 of 64

// -----
%y = mpk_task.buffer scratch "y" flagged panels <8 of 64> : memref<9x32xf32>
// CHECK: a shape of [9, 32] is no number of tokens of 64 columns each

// -----
%x = mpk_task.buffer scratch "x" flagged apart 8 panels <8 of 64> : memref<8x64xf32>
// CHECK: what lies in panels does not lie apart, as "x" does

// -----

%x = mpk_task.buffer scratch "x" flagged brief panels <8 of 64> planes : memref<8x64xbf16>
// CHECK: only brief f32 in panels is in two planes, not "x"

// -----

%x = mpk_task.buffer scratch "x" flagged brief planes : memref<8x64xf32>
// CHECK: only brief f32 in panels is in two planes, not "x"

// -----
%x = mpk_task.buffer scratch "x" panels <8 of 64> : memref<8x64xf32>
// CHECK: only flagged buffers of one rank are brief, apart or in panels, not "x"
