// RUN: mpk-opt %s -p mpk-normalize-events --split-input-file | filecheck %s

// Two events with the same waiters and other maps: their counters join until one map serves both.
// Here heads wait in pairs afterwards: 12 pairs of tasks are ordered where 8 were.

// CHECK-LABEL: func.func @join_maps
// CHECK-COUNT-1: mpk_event.tensor @q counters 2 arrivals [3] orders 12 where 8 conflict
// CHECK-NOT:     mpk_event.tensor
// CHECK:         mpk_task.grid @q_proj [4] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> ((d0 floordiv 2))>>]
// CHECK:         mpk_task.grid @k_proj [2] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>]
// CHECK:         mpk_task.grid @heads [4] boxes [] waits [#mpk_event.edge<@q, affine_map<(d0) -> ((d0 floordiv 2))>>]
func.func @join_maps() {
  mpk_event.tensor @q counters 4 arrivals [1]
  mpk_event.tensor @k counters 2 arrivals [1]
  mpk_task.grid @q_proj [4] boxes [] signals [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @k_proj [2] boxes [] signals [#mpk_event.edge<@k, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @heads [4] boxes [] waits [#mpk_event.edge<@q, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@k, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  func.return
}

// -----

// @d waits for @a and @b, @c only for @a: an empty task passes @a's event on to the one of @b and @d.

// CHECK-LABEL: func.func @join_task
// CHECK:         mpk_event.tensor @ea counters 1 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @eb counters 1 arrivals [4]
// CHECK:         mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @d.join [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @b [3] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>]
func.func @join_task() {
  mpk_event.tensor @ea counters 1 arrivals [2]
  mpk_event.tensor @eb counters 1 arrivals [3]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// @x signals two events, of which @z's also has another signaller: @x signals the first, an empty
// task for each of its counters the second.

// CHECK-LABEL: func.func @fork_task
// CHECK:         mpk_event.tensor @a counters 2 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @b counters 1 arrivals [3]
// CHECK:         mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> ((d0 floordiv 2))>>]
// CHECK:         mpk_task.grid @x.join [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>] signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @w [1] boxes [] signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]
func.func @fork_task() {
  mpk_event.tensor @a counters 2 arrivals [2]
  mpk_event.tensor @b counters 1 arrivals [5]
  mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @w [1] boxes [] signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @y [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @z [2] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// @d and @e wait for both events: one join serves both.

// CHECK-LABEL: func.func @one_join_for_two
// CHECK:         mpk_task.grid @d.join [1]
// CHECK-NOT:     join
// CHECK:         mpk_task.grid @d [2] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] {
// CHECK:         mpk_task.grid @e [1] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] {
func.func @one_join_for_two() {
  mpk_event.tensor @ea counters 1 arrivals [2]
  mpk_event.tensor @eb counters 1 arrivals [3]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [2] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @e [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// A join for each pair of counters keeps the tiles of @d apart.

// CHECK-LABEL: func.func @pairs
// CHECK:         mpk_event.tensor @eb counters 4 arrivals [2]
// CHECK:         mpk_task.grid @d.join [4] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> ((d0 floordiv 2))>>] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (d0)>>]
// CHECK:         mpk_task.grid @d [4] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (d0)>>] {
func.func @pairs() {
  mpk_event.tensor @ea counters 2 arrivals [1]
  mpk_event.tensor @eb counters 4 arrivals [1]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @b [4] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @d [4] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  func.return
}

// -----

// Nobody waits for the second half of @x by @b, nor for @c: no task passes that on.

// CHECK-LABEL: func.func @unheard
// CHECK:         mpk_event.tensor @a counters 1 arrivals [4]
// CHECK-NEXT:    mpk_event.tensor @b counters 1 arrivals [2]
// CHECK-NEXT:    mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @x.join [1] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]
// CHECK-NOT:     join
// CHECK:         mpk_task.grid @z [1] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>]
func.func @unheard() {
  mpk_event.tensor @a counters 1 arrivals [4]
  mpk_event.tensor @b counters 2 arrivals [3, 2]
  mpk_event.tensor @c counters 2 arrivals [2] handoff peer
  mpk_task.grid @x [4] boxes [] signals [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>, #mpk_event.edge<@b, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@c, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  mpk_task.grid @w [1] boxes [] signals [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @y [2] boxes [] waits [#mpk_event.edge<@a, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @z [1] boxes [] waits [#mpk_event.edge<@b, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
