// RUN: mpk-opt %s -p mpk-merge-events --split-input-file | filecheck %s

// @both fires when @b is done, for @b comes after @a: always together with @last, whose signals are
// enough. (No set of tasks is the same on either side: neither definition of fusion applies.)

// CHECK-LABEL: func.func @together
// CHECK:         mpk_event.tensor @ab counters 1 arrivals [2]
// CHECK-NEXT:    mpk_event.tensor @both counters 1 arrivals [5]
// CHECK-NOT:     mpk_event.tensor
// CHECK:         mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@both, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@both, affine_map<(d0) -> (0)>>]
func.func @together() {
  mpk_event.tensor @ab counters 1 arrivals [2]
  mpk_event.tensor @both counters 1 arrivals [5]
  mpk_event.tensor @last counters 1 arrivals [3]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>, #mpk_event.edge<@both, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@both, affine_map<(d0) -> (0)>>, #mpk_event.edge<@last, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [1] boxes [] waits [#mpk_event.edge<@both, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@last, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// @d waits for @a and @b, @c only for @b, but comes after @a anyway: @a's event may be part of @b's.

// CHECK-LABEL: func.func @shared
// CHECK:         mpk_event.tensor @eb counters 1 arrivals [4]
// CHECK:         mpk_task.grid @a [1] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>]
// CHECK:         mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>]
func.func @shared() {
  mpk_event.tensor @ab counters 1 arrivals [2]
  mpk_event.tensor @ea counters 1 arrivals [1]
  mpk_event.tensor @eb counters 1 arrivals [3]
  mpk_task.grid @a [1] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>, #mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @w [1] boxes [] signals [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @x [1] boxes [] waits [#mpk_event.edge<@ab, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@xc, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_event.tensor @xc counters 1 arrivals [1]
  mpk_task.grid @b [3] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>, #mpk_event.edge<@xc, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// Where @c need not come after @a, that would make it wait for more.

// CHECK-LABEL: func.func @not_shared
// CHECK:         mpk_event.tensor @ea counters 1 arrivals [1]
// CHECK-NEXT:    mpk_event.tensor @eb counters 1 arrivals [3]
func.func @not_shared() {
  mpk_event.tensor @ea counters 1 arrivals [1]
  mpk_event.tensor @eb counters 1 arrivals [3]
  mpk_task.grid @a [1] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>, #mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
