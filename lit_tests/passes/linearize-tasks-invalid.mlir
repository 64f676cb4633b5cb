// RUN: not mpk-opt %s -p mpk-linearize-tasks 2>&1 | filecheck %s

// CHECK: mpk-opt: error: @a[0]: tasks wait for each other in a circle
func.func @circle() {
  mpk_event.tensor @ea counters 1 arrivals [1]
  mpk_event.tensor @eb counters 1 arrivals [1]
  mpk_task.grid @a [1] boxes [] waits [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  mpk_task.grid @b [1] boxes [] waits [#mpk_event.edge<@ea, affine_map<(d0) -> (0)>>] signals [#mpk_event.edge<@eb, affine_map<(d0) -> (0)>>] { mpk_task.yield }
  func.return
}
