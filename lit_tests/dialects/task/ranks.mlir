// RUN: mpk-opt %s | filecheck %s
// RUN: ROUNDTRIP
// RUN: sed 's/to memref<1x8xf32>/to memref<2x4xf32>/;s/%own : memref<1x8xf32>/%own : memref<2x4xf32>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix ROW
// RUN: sed 's/tp = 4/tp = 2/;s/dim 0 of 4/dim 0 of 2/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix RANKS
// RUN: sed 's/"sums" exchange/"sums"/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix BUFFER
// RUN: sed 's/writes(%half/writes(%half2/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix LOCAL
// RUN: sed 's/offset: 4>/offset: 8>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix END
// RUN: sed 's/arrivals .4. handoff peer/arrivals [6] handoff peer/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix ARRIVALS

// What four ranks write into each other's memory: each its own row of a buffer, in all of them.

// CHECK:       mpk_task.buffer weight "w" shard <dim 0 of 4> : memref<8x4xf32>
// CHECK-NEXT:  %[[SUMS:.*]] = mpk_task.buffer scratch "sums" exchange flagged : memref<4x1x8xf32>
// CHECK-NEXT:  %[[ROWS:.*]] = mpk_task.mine %[[SUMS]] : memref<4x1x8xf32> to memref<1x8xf32>

// ROW:      a row of memref<4x1x8xf32> is memref<1x8xf32>, not memref<2x4xf32>
// RANKS:    an exchange buffer has a row for each of 2 ranks, got memref<4x1x8xf32>
// BUFFER:    a rank's own row is one of an exchange buffer
// LOCAL:    grid @part writes the exchange buffer "sums" in its own memory only
// END:      view reaches element 11 of a row of memref<4x1x8xf32>, which has 8
// ARRIVALS: arrivals from 4 ranks alike are a multiple of that, got 6
module attributes {mpk.mesh = {tp = 4}} {
  func.func @step() {
    %w = mpk_task.buffer weight "w" shard <dim 0 of 4> : memref<8x4xf32>
    %sums = mpk_task.buffer scratch "sums" exchange flagged : memref<4x1x8xf32>
    %own = mpk_task.mine %sums : memref<4x1x8xf32> to memref<1x8xf32>
    %half = mpk_task.view %own : memref<1x8xf32> to memref<1x4xf32, strided<[8, 1], offset: 4>>
    %half2 = mpk_task.view %sums : memref<4x1x8xf32> to memref<1x4xf32, strided<[8, 1], offset: 4>>
    mpk_event.tensor @done counters 1 arrivals [4] handoff peer
    mpk_task.grid @part [1] writes(%half : memref<1x4xf32, strided<[8, 1], offset: 4>>) boxes [
        #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 4]>]
        signals [#mpk_event.edge<@done, affine_map<(d0) -> (0)>>] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<1x4xf32>
      mpk_task.yield %0 : tensor<1x4xf32>
    }
    func.return
  }
}
