// RUN: mpk-opt %s -p mpk-linearize-tasks --split-input-file | filecheck %s

// @b and @c are released by one event and stand together; @d, released by another, comes after.

// CHECK-LABEL: func.func @released_together
// CHECK:         mpk_task.grid @a [2] boxes [] waits {{.*}} first 0
// CHECK:         mpk_task.grid @b [3] boxes [] waits {{.*}} first 2
// CHECK:         mpk_task.grid @c [4] boxes [] waits {{.*}} first 5
// CHECK:         mpk_task.grid @d [1] boxes [] waits {{.*}} first 9
// CHECK:         func.return
func.func @released_together() {
  mpk_event.tensor @ea counters 1 arrivals [2]
  mpk_event.tensor @eb counters 1 arrivals [3]
  mpk_event.tensor @end counters 1 arrivals [5]
  mpk_task.grid @a [2] boxes [] waits [#mpk_event.edge<@end, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [3] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @d [1] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @c [4] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@end, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}

// -----

// Each counter of @ea releases two tasks of @b and one of @c, that are no neighbours in their
// grids: b[0], b[2], c[1], then b[1], b[3], c[0].

// CHECK-LABEL: func.func @tasks_of_one_event
// CHECK:         mpk_task.grid @a [2] boxes [] signals {{.*}} first 0 {
// CHECK:         mpk_task.grid @b [4] boxes [] waits {{.*}} first 2 order [2, 5, 3, 6] {
// CHECK:         mpk_task.grid @c [2] boxes [] waits {{.*}} first 4 order [7, 4] {
func.func @tasks_of_one_event() {
  mpk_event.tensor @ea counters 2 arrivals [1]
  mpk_task.grid @a [2] boxes [] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (d0)>>] { mpk_task.yield }
  mpk_task.grid @b [4] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (d0 mod 2)>>] { mpk_task.yield }
  mpk_task.grid @c [2] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (1 - d0)>>] { mpk_task.yield }
  func.return
}
