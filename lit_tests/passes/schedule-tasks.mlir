// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=3}" | filecheck %s
// RUN: not mpk-opt %s -p "mpk-schedule-tasks{policy=fastest}" 2>&1 | filecheck %s --check-prefix POLICY

// Each family goes on with the worker after the last one's.

// CHECK:      builtin.module attributes {mpk.workers = 3 : i64}
// CHECK:      mpk_task.grid @a [4] boxes [] workers [0, 1, 2, 0] slots [0, 0, 0, 1]
// CHECK:      mpk_task.grid @b [5] boxes [] workers [1, 2, 0, 1, 2] slots [1, 1, 2, 2, 2]

// POLICY: mpk-opt: error: mpk-schedule-tasks: no scheduling policy is named 'fastest'
// POLICY-SAME: choose one of dynamic, hybrid, list, round-robin
func.func @step() {
  mpk_task.grid @a [4] boxes [] { mpk_task.yield }
  mpk_task.grid @b [5] boxes [] { mpk_task.yield }
  func.return
}
