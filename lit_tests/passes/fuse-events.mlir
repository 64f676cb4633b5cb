// RUN: mpk-opt %s -p mpk-fuse-events --split-input-file | filecheck %s

// Three projections feed one attention: their events have the same waiters, by the same maps, and
// become one whose arrivals are the sum (the paper's successor-set fusion).

// CHECK-LABEL: func.func @same_waiters
// CHECK-COUNT-1: mpk_event.tensor @q counters 2 arrivals [6]
// CHECK-NOT:     mpk_event.tensor
// CHECK:         mpk_task.grid @q_proj [8] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> ((d0 floordiv 4))>>]
// CHECK:         mpk_task.grid @k_proj [2] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>]
// CHECK:         mpk_task.grid @v_proj [2] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>]
// CHECK:         mpk_task.grid @attention [2] boxes [] waits [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>]
func.func @same_waiters() {
  mpk_event.tensor @q counters 2 arrivals [4]
  mpk_event.tensor @k counters 2 arrivals [1]
  mpk_event.tensor @v counters 2 arrivals [1]
  mpk_task.grid @q_proj [8] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> (d0 floordiv 4)>>] { mpk_task.yield }
  mpk_task.grid @k_proj [2] boxes [] signals [#mpk_event.edge<@k, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @v_proj [2] boxes [] signals [#mpk_event.edge<@v, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @attention [2] boxes [] waits [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@k, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@v, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  func.return
}

// -----

// One family feeds two others by the same map: one event for both (predecessor-set fusion).

// CHECK-LABEL: func.func @same_signallers
// CHECK-COUNT-1: mpk_event.tensor @a counters 1 arrivals [4]
// CHECK-NOT:     mpk_event.tensor
// CHECK:         mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @gate [3] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @up [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>]
func.func @same_signallers() {
  mpk_event.tensor @a counters 1 arrivals [4]
  mpk_event.tensor @b counters 1 arrivals [4]
  mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>, #mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @gate [3] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @up [2] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// The same families by other maps stay apart: one event would make tasks wait for more.

// CHECK-LABEL: func.func @other_maps
// CHECK:         mpk_event.tensor @a counters 2 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @b counters 1 arrivals [4]
func.func @other_maps() {
  mpk_event.tensor @a counters 2 arrivals [2]
  mpk_event.tensor @b counters 1 arrivals [4]
  mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @y [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @z [2] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// The counters of @a and @b have the same waiters in another order: they pair up, and @y's signals
// are numbered as @a's.

// CHECK-LABEL: func.func @other_numbers
// CHECK-COUNT-1: mpk_event.tensor @a counters 2 arrivals [3]
// CHECK-NOT:     mpk_event.tensor
// CHECK:         mpk_task.grid @y [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> {{.*}}floordiv 2
// CHECK:         mpk_task.grid @z [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>] {
func.func @other_numbers() {
  mpk_event.tensor @a counters 2 arrivals [1]
  mpk_event.tensor @b counters 2 arrivals [2]
  mpk_task.grid @x [2] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @y [4] boxes [] signals [#mpk_event.edge<@b, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  mpk_task.grid @z [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@b, affine_map<(d0) -> (1 - d0)>>] { mpk_task.yield }
  func.return
}

// -----

// Fork and join at once: @p feeds @q and @r, both feed @s. Two events remain of four.

// CHECK-LABEL: func.func @diamond
// CHECK:         mpk_event.tensor @pq counters 1 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @qs counters 1 arrivals [7]
// CHECK-NOT:     mpk_event.tensor
func.func @diamond() {
  mpk_event.tensor @pq counters 1 arrivals [2]
  mpk_event.tensor @pr counters 1 arrivals [2]
  mpk_event.tensor @qs counters 1 arrivals [3]
  mpk_event.tensor @rs counters 1 arrivals [4]
  mpk_task.grid @p [2] boxes [] signals [#mpk_event.edge<@pq, affine_map<(d0) -> (0)>>, #mpk_event.edge<@pr, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @q [3] boxes [] waits [#mpk_event.edge<@pq, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@qs, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @r [4] boxes [] waits [#mpk_event.edge<@pr, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@rs, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @s [5] boxes [] waits [#mpk_event.edge<@qs, affine_map<(d0) -> (0)>>, #mpk_event.edge<@rs, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
