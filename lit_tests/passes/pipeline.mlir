// RUN: mpk-opt %s -p mpk-pipeline | filecheck %s --check-prefix=DEFAULT
// RUN: mpk-opt %s -p "mpk-pipeline{target=sm_80 workers=3}" | filecheck %s --check-prefix=FEW
// RUN: mpk-opt %s -p "mpk-raise,mpk-fuse-operators,mpk-widen-activations,mpk-split-reductions,mpk-partition-tiles{workers=3},mpk-lower-dependencies,mpk-fuse-events,mpk-normalize-events,mpk-linearize-tasks,mpk-pipeline-tasks{machine=a100},mpk-schedule-tasks{workers=3},mpk-verify-schedule" | filecheck %s --check-prefix=FEW

// The pipeline is the list of its passes; a target says how many workers there are and whether weights
// stream, `workers` overrides it.

// DEFAULT: mpk.workers = 132
// DEFAULT: mpk_task.ring
// FEW:     mpk.workers = 3
// FEW:     mpk_task.ring
// FEW:     mpk_task.grid @linear [3]
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x16xbf16>
  %w = mpk_tensor.weight "w" : tensor<24x16xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x16xbf16>, [tensor<24x16xbf16>] to tensor<1x24xbf16>
  mpk_tensor.output "y", %y : tensor<1x24xbf16>
  func.return
}
