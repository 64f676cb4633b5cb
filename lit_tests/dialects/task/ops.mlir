// RUN: ROUNDTRIP

// CHECK: func.func @step
func.func @step() {
  // CHECK: mpk_task.ring slots 12 bytes 16384 in_flight 4
  mpk_task.ring slots 12 bytes 16384 in_flight 4
  // CHECK: %x = mpk_task.buffer scratch "x" : memref<1x8xbf16>
  %x = mpk_task.buffer scratch "x" : memref<1x8xbf16>
  // CHECK: %w = mpk_task.buffer weight "w" : memref<16x8xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x8xbf16>
  // CHECK: %tokens = mpk_task.buffer state "tokens" initial -1 donated : memref<9xi64>
  %tokens = mpk_task.buffer state "tokens" initial -1 donated : memref<9xi64>
  // CHECK-NEXT: %flagged = mpk_task.buffer scratch "flagged" flagged : memref<8xf16>
  %flagged = mpk_task.buffer scratch "flagged" flagged : memref<8xf16>
  %y = mpk_task.buffer output "y" : memref<1x16xbf16>
  // CHECK: %flat = mpk_task.view %y : memref<1x16xbf16> to memref<16x1xbf16>
  %flat = mpk_task.view %y : memref<1x16xbf16> to memref<16x1xbf16>
  // Columns 2 to 5, every other row's first elements, the transpose, a row repeated, the first half.
  // CHECK: mpk_task.view %w : memref<16x8xbf16> to memref<16x4xbf16, strided<[8, 1], offset: 2>>
  %columns = mpk_task.view %w : memref<16x8xbf16> to memref<16x4xbf16, strided<[8, 1], offset: 2>>
  // CHECK: mpk_task.view %{{.*}} : memref<16x4xbf16, strided<[8, 1], offset: 2>> to memref<8xbf16, strided<[16]>>
  %stepped = mpk_task.view %columns : memref<16x4xbf16, strided<[8, 1], offset: 2>> to memref<8xbf16, strided<[16]>>
  // CHECK: mpk_task.view %w : memref<16x8xbf16> to memref<8x16xbf16, strided<[1, 8]>>
  %transposed = mpk_task.view %w : memref<16x8xbf16> to memref<8x16xbf16, strided<[1, 8]>>
  // CHECK: mpk_task.view %x : memref<1x8xbf16> to memref<3x8xbf16, strided<[0, 1]>>
  %repeated = mpk_task.view %x : memref<1x8xbf16> to memref<3x8xbf16, strided<[0, 1]>>
  // CHECK: mpk_task.view %y : memref<1x16xbf16> to memref<8xbf16>
  %prefix = mpk_task.view %y : memref<1x16xbf16> to memref<8xbf16>
  mpk_event.tensor @ready counters 2 arrivals [2]
  // CHECK:      mpk_task.grid @up [4] reads(%x, %w : memref<1x8xbf16>, memref<16x8xbf16>)
  // CHECK-SAME: writes(%flat : memref<16x1xbf16>)
  // CHECK-SAME: boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> ((d0 * 4), 0)>, [4, 8]>, #mpk_task.region<affine_map<(d0) -> ((d0 * 4), 0)>, [4, 1]>]
  // CHECK-SAME: signals [#mpk_event.edge<@ready, affine_map<(d0) -> ((d0 floordiv 2))>>]
  // CHECK-SAME: first 0 workers [0, 1, 0, 1] slots [0, 0, 1, 1]
  // CHECK-SAME: stream <[1], rows 4, parts 1> {
  mpk_task.grid @up [4] reads(%x, %w : memref<1x8xbf16>, memref<16x8xbf16>)
    writes(%flat : memref<16x1xbf16>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 1]>]
    signals [#mpk_event.edge<@ready, affine_map<(d0) -> (d0 floordiv 2)>>]
    first 0 workers [0, 1, 0, 1] slots [0, 0, 1, 1] stream <[1], rows 4, parts 1> {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<4x8xbf16>):
    // CHECK: mpk_task.index 0 : tensor<1xi64>
    %i = mpk_task.index 0 : tensor<1xi64>
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
    %3 = mpk_tensor.reshape %2 : tensor<1x4xbf16> to tensor<4x1xbf16>
    // CHECK: mpk_task.yield %{{.*}} : tensor<4x1xbf16>
    mpk_task.yield %3 : tensor<4x1xbf16>
  }
  // A family that only joins events.
  // CHECK:      mpk_task.grid @join [1] boxes [] waits [#mpk_event.edge<@ready, affine_map<(d0) -> (1)>, lag 1>] {
  // CHECK-NEXT:   mpk_task.yield
  mpk_task.grid @join [1] boxes [] waits [#mpk_event.edge<@ready, affine_map<(d0) -> (1)>, lag 1>] {
    mpk_task.yield
  }
  // A family whose tasks get their worker when their event fires.
  // CHECK:      mpk_task.grid @late [4] boxes [] waits [#mpk_event.edge<@ready, affine_map<(d0) -> ((d0 floordiv 2))>>] dynamic {
  mpk_task.grid @late [4] boxes [] waits [#mpk_event.edge<@ready, affine_map<(d0) -> (d0 floordiv 2)>>] dynamic {
    mpk_task.yield
  }
  func.return
}
