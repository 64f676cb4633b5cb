// Counts of the task graph, at the level that a module is at.

// RUN: mpk-opt %s --print-graph-stats | filecheck %s --check-prefix=OPERATORS
// RUN: mpk-opt %s -p "mpk-partition-tiles{workers=4}" --print-graph-stats | filecheck %s --check-prefix=TASKS
// RUN: mpk-opt %s -p "mpk-partition-tiles{workers=4},mpk-lower-dependencies,mpk-schedule-tasks{workers=2}" --print-graph-stats | filecheck %s --check-prefix=SCHEDULED
// RUN: mpk inspect %s --graph --target cpu --workers 2 | filecheck %s --check-prefix=INSPECT

// OPERATORS:      // operators: 2
// OPERATORS-NOT:  // tasks

// TASKS:          // operators: 2
// TASKS-NEXT:     // tasks: 5
// TASKS-NEXT:     // tasks per operator: 2.5
// TASKS-NEXT:     // joins: 0
// TASKS-NEXT:     // task pairs: 4
// TASKS-NEXT:     // task pairs by data: 4
// TASKS-NEXT:     // task pairs from step to step: 9
// TASKS-NEXT:     builtin.module

// Two workers, two tasks of @linear each: one wait and one signal of each worker suffice.
// SCHEDULED:      // events: 2
// SCHEDULED-NEXT: // pairs they order: 4
// SCHEDULED-NEXT: // pairs they have to order: 4
// SCHEDULED-NEXT: // fusion ratio: 2.0
// SCHEDULED-NEXT: // linearization ratio: 2.5
// SCHEDULED-NEXT: // waits per step: 3
// SCHEDULED-NEXT: // signals per step: 3
// SCHEDULED-NEXT: // longest chain: 2

// INSPECT:        cpu with 2 workers
// INSPECT:        partition-tiles
// INSPECT:        operators
// INSPECT:        longest chain
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x64xf32>
  %n = mpk_tensor.weight "n" : tensor<64xf32>
  %w = mpk_tensor.weight "w" : tensor<64x64xf32>
  %y = mpk_tensor.rms_norm %x, %n eps 1.0e-5 : (tensor<1x64xf32>, tensor<64xf32>) -> tensor<1x64xf32>
  %z = mpk_tensor.linear %y, [%w] : tensor<1x64xf32>, [tensor<64x64xf32>] to tensor<1x64xf32>
  mpk_tensor.output "z", %z : tensor<1x64xf32>
  func.return
}
