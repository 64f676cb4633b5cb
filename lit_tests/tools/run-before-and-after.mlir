// RUN: mpk-opt %s -p 'mpk-pipeline{target=cpu workers=3}' --run-before-and-after=all -o /dev/null 2>&1 | filecheck %s
// RUN: not mpk-opt %s --load-plugin %S/Inputs/broken_passes.py -p 'add-instead,mpk-partition-tiles' --run-before-and-after=add-instead --run-seed=7 2>&1 | filecheck %s --check-prefix TENSOR
// RUN: not mpk-opt %s --load-plugin %S/Inputs/broken_passes.py -p 'mpk-partition-tiles,add-instead' --run-before-and-after=add-instead 2>&1 | filecheck %s --check-prefix TASK
// RUN: not mpk-opt %s --load-plugin %S/Inputs/broken_passes.py -p 'mpk-partition-tiles,mpk-lower-dependencies,forget-waits' --run-before-and-after=forget-waits 2>&1 | filecheck %s --check-prefix EVENT
// RUN: not mpk-opt %s -p mpk-raise --run-before-and-after=mpk-fuse-events 2>&1 | filecheck %s --check-prefix NONE

// CHECK:      mpk-opt: mpk-raise: 2 outputs and states identical after 3 steps
// CHECK-NEXT: mpk-opt: mpk-fuse-operators: 2 outputs and states
// CHECK:      mpk-opt: mpk-partition-tiles: 2 outputs and states {{.*}} after 3 steps
// CHECK:      mpk-opt: mpk-lower-dependencies: 2 outputs and states identical after 3 steps
// CHECK:      mpk-opt: mpk-schedule-tasks: 2 outputs and states identical after 3 steps

// TENSOR:     mpk-opt: error: add-instead: the pass changes results: output 'y'[0, 0] was {{.*}} and is {{.*}} apart, allowed is {{.*}}; 64 of 64 elements differ (1 of 2 outputs and states differ)
// TASK:       mpk-opt: error: add-instead: the pass changes results: output 'y'[0, 0] was
// EVENT:      mpk-opt: error: forget-waits: the program does not run after the pass:
// NONE:       mpk-opt: error: the pipeline has no pass 'mpk-fuse-events' to run before and after; its passes are mpk-raise

func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x32xf32>
  %w = mpk_tensor.weight "w" : tensor<64x32xf32>
  %count = mpk_tensor.state "count" : tensor<2xi64>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x32xf32>, [tensor<64x32xf32>] to tensor<1x64xf32>
  %z = mpk_tensor.elementwise %y {
  ^bb0(%0 : f32):
    %1 = arith.mulf %0, %0 : f32
    mpk_tensor.yield %1 : f32
  } : (tensor<1x64xf32>) -> tensor<1x64xf32>
  %more = mpk_tensor.elementwise %count {
  ^bb0(%0 : i64):
    %1 = arith.addi %0, %0 : i64
    mpk_tensor.yield %1 : i64
  } : (tensor<2xi64>) -> tensor<2xi64>
  mpk_tensor.store_state "count", %more : tensor<2xi64>
  mpk_tensor.output "y", %z : tensor<1x64xf32>
  func.return
}
