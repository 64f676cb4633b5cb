// RUN: mpk-opt %s -p mpk-eliminate-dependencies --split-input-file | filecheck %s

// @c learns from @b that @a is done, so it need not wait for @a; @ab stays for @b.

// CHECK-LABEL: func.func @through_a_task
// CHECK:         mpk_event.tensor @ab counters 1 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @bc counters 1 arrivals [3]
// CHECK-NEXT:    mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@bc, affine_map<(d0) -> (0)>>]
func.func @through_a_task() {
  mpk_event.tensor @ab counters 1 arrivals [2]
  mpk_event.tensor @bc counters 1 arrivals [3]
  mpk_event.tensor @ac counters 1 arrivals [2]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>, #mpk_event.edge<@ac, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@bc, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@ac, affine_map<(d0) -> (0)>>, #mpk_event.edge<@bc, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// The same on tiles: @c[i] comes after @b[i], which comes after @a[2i] and @a[2i+1] alone. That
// implies @c's wait for these, but not @d's for all of @a: one waiting family of two goes.

// CHECK-LABEL: func.func @one_waiter_of_two
// CHECK:         mpk_event.tensor @all counters 2 arrivals [2]
// CHECK:         mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>] {
// CHECK:         mpk_task.grid @d [2] boxes [] waits [#mpk_event.edge<@all, affine_map<(d0) -> (((d0 * -1) + 1))>>] {
func.func @one_waiter_of_two() {
  mpk_event.tensor @ab counters 2 arrivals [2]
  mpk_event.tensor @bc counters 2 arrivals [1]
  mpk_event.tensor @all counters 2 arrivals [2]
  mpk_task.grid @a [4] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@all, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  mpk_task.grid @b [2] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (d0)>>] signals [#mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@all, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @d [2] boxes [] waits [#mpk_event.edge<@all, affine_map<(d0) -> (1 - d0)>>] { mpk_task.yield }
  func.return
}

// -----

// With tiles that do not match nothing is implied.

// CHECK-LABEL: func.func @other_tiles
// CHECK:         mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>, #mpk_event.edge<@ac, affine_map<(d0) -> (((d0 * -1) + 1))>>] {
func.func @other_tiles() {
  mpk_event.tensor @ab counters 2 arrivals [2]
  mpk_event.tensor @bc counters 2 arrivals [1]
  mpk_event.tensor @ac counters 2 arrivals [2]
  mpk_task.grid @a [4] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (d0 floordiv 2)>>, #mpk_event.edge<@ac, affine_map<(d0) -> (d0 floordiv 2)>>] { mpk_task.yield }
  mpk_task.grid @b [2] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (d0)>>] signals [#mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@ac, affine_map<(d0) -> (1 - d0)>>, #mpk_event.edge<@bc, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  func.return
}

// -----

// @a signals what @b signals after it: @b's signals are enough.

// CHECK-LABEL: func.func @early_signal
// CHECK:         mpk_event.tensor @e counters 1 arrivals [3]
// CHECK:         mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @b [3] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>]
func.func @early_signal() {
  mpk_event.tensor @ab counters 1 arrivals [2]
  mpk_event.tensor @e counters 1 arrivals [5]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>, #mpk_event.edge<@e, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@e, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// Who waits for an event of this step knows that the step before is over.

// CHECK-LABEL: func.func @last_step
// CHECK:         mpk_task.grid @b [1] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals
func.func @last_step() {
  mpk_event.tensor @end counters 1 arrivals [1]
  mpk_event.tensor @ab counters 1 arrivals [2]
  mpk_task.grid @a [2] boxes [] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [1] boxes [] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>, #mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
