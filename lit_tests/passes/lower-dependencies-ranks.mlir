// RUN: mpk-opt %s -p mpk-lower-dependencies --split-input-file | filecheck %s
// RUN: mpk-opt %s -p mpk-lower-dependencies,mpk-fuse-events,mpk-merge-events,mpk-eliminate-dependencies --split-input-file | filecheck %s
// RUN: mpk-opt %s -p mpk-lower-dependencies,mpk-fuse-events,mpk-merge-events,mpk-eliminate-dependencies,mpk-normalize-events,mpk-linearize-tasks,mpk-schedule-tasks{workers=2},mpk-verify-schedule --split-input-file | filecheck %s --check-prefix PROVEN

// Ranks write into each other's memory twice. The second time they have to wait until all have read
// what was there: that each has gone on with its own work says nothing of the others.

// CHECK-LABEL: func.func @own_paths
// CHECK:       mpk_event.tensor @[[first:.*]] counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @{{.*}} counters 1 arrivals [1]
// CHECK-NEXT:  mpk_event.tensor @[[again:.*]] counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @{{.*}} counters 1 arrivals [1]
// CHECK-NEXT:  mpk_event.tensor @[[second:.*]] counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @end counters 1 arrivals [2] handoff peer
// PROVEN:      func.func @own_paths
module attributes {mpk.mesh = {tp = 2}} {
  func.func @own_paths() {
    %b = mpk_task.buffer scratch "b" exchange : memref<2x8xf32>
    %own = mpk_task.mine %b : memref<2x8xf32> to memref<8xf32>
    %y = mpk_task.buffer scratch "y" : memref<8xf32>
    %z = mpk_task.buffer scratch "z" : memref<8xf32>
    %o = mpk_task.buffer output "o" : memref<8xf32>
    mpk_task.grid @send [1] writes(%own : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @read [1] reads(%b : memref<2x8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %1 : tensor<8xf32>
    }
    mpk_task.grid @work [1] reads(%y : memref<8xf32>) writes(%z : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<8xf32>):
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @again [1] reads(%z : memref<8xf32>) writes(%own : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<8xf32>):
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @last [1] reads(%b : memref<2x8xf32>) writes(%o : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %1 : tensor<8xf32>
    }
    func.return
  }
}

// -----

// Where the work between goes to all ranks itself, no other event is needed.

// CHECK-LABEL: func.func @through_others
// CHECK:       mpk_event.tensor @{{.*}} counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @{{.*}} counters 1 arrivals [1]
// CHECK-NEXT:  mpk_event.tensor @{{.*}} counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @{{.*}} counters 1 arrivals [2] handoff peer
// CHECK-NEXT:  mpk_event.tensor @end counters 1 arrivals [2] handoff peer
// PROVEN:      func.func @through_others
module attributes {mpk.mesh = {tp = 2}} {
  func.func @through_others() {
    %b = mpk_task.buffer scratch "b" exchange : memref<2x8xf32>
    %own = mpk_task.mine %b : memref<2x8xf32> to memref<8xf32>
    %y = mpk_task.buffer scratch "y" : memref<8xf32>
    %z = mpk_task.buffer scratch "z" exchange : memref<2x8xf32>
    %part = mpk_task.mine %z : memref<2x8xf32> to memref<8xf32>
    %o = mpk_task.buffer output "o" : memref<8xf32>
    mpk_task.grid @send [1] writes(%own : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @read [1] reads(%b : memref<2x8xf32>) writes(%y : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %1 : tensor<8xf32>
    }
    mpk_task.grid @work [1] reads(%y : memref<8xf32>) writes(%part : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<8xf32>):
      mpk_task.yield %0 : tensor<8xf32>
    }
    mpk_task.grid @again [1] reads(%z : memref<2x8xf32>) writes(%own : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %1 : tensor<8xf32>
    }
    mpk_task.grid @last [1] reads(%b : memref<2x8xf32>) writes(%o : memref<8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
    ^bb0(%0 : tensor<2x8xf32>):
      %1 = mpk_tensor.full 1.0 : f32 : tensor<8xf32>
      mpk_task.yield %1 : tensor<8xf32>
    }
    func.return
  }
}

// -----

// Each rank adds up its half of what all send, and sends that to all: nobody waits for an event, and
// all that a step has written is over at its end, which the last to read tell.

// CHECK-LABEL: func.func @in_parts
// CHECK:       mpk_event.tensor @end counters 1 arrivals [4] handoff peer
// CHECK-NOT:   mpk_event.tensor
// PROVEN:      func.func @in_parts
module attributes {mpk.mesh = {tp = 2}} {
  func.func @in_parts() {
    %x = mpk_task.buffer input "x" : memref<1x8xf32>
    %p = mpk_task.buffer scratch "p" exchange flagged : memref<2x1x4xf32>
    %halves = mpk_task.scatter %p dim 1 : memref<2x1x4xf32> to memref<1x8xf32>
    %s = mpk_task.buffer scratch "s" exchange flagged : memref<2x1x4xf32>
    %own = mpk_task.mine %s : memref<2x1x4xf32> to memref<1x4xf32>
    %whole = mpk_task.view %s : memref<2x1x4xf32> to memref<1x8xf32>
    %y = mpk_task.buffer output "y" : memref<1x8xf32>
    mpk_task.grid @send [2] reads(%x : memref<1x8xf32>) writes(%halves : memref<1x8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
    ^bb0(%0 : tensor<1x4xf32>):
      mpk_task.yield %0 : tensor<1x4xf32>
    }
    mpk_task.grid @sum [1] reads(%p : memref<2x1x4xf32>) writes(%own : memref<1x4xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0)>, [2, 1, 4]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 4]>] {
    ^bb0(%0 : tensor<2x1x4xf32>):
      %1 = mpk_tensor.slice %0 dim 0 start 0 : tensor<2x1x4xf32> to tensor<1x1x4xf32>
      %2 = mpk_tensor.slice %0 dim 0 start 1 : tensor<2x1x4xf32> to tensor<1x1x4xf32>
      %3 = mpk_tensor.elementwise %1, %2 {
      ^bb1(%4 : f32, %5 : f32):
        %6 = arith.addf %4, %5 : f32
        mpk_tensor.yield %6 : f32
      } : (tensor<1x1x4xf32>, tensor<1x1x4xf32>) -> tensor<1x1x4xf32>
      %7 = mpk_tensor.reshape %3 : tensor<1x1x4xf32> to tensor<1x4xf32>
      mpk_task.yield %7 : tensor<1x4xf32>
    }
    mpk_task.grid @out [2] reads(%whole : memref<1x8xf32>) writes(%y : memref<1x8xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
    ^bb0(%0 : tensor<1x4xf32>):
      mpk_task.yield %0 : tensor<1x4xf32>
    }
    func.return
  }
}
