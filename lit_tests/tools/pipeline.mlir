// The whole way down by the name of a pipeline, and what targets print at its end.
// RUN: mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=cpu workers=3}' | filecheck %s
// RUN: mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=cpu workers=3}' -t mpk-cpu | filecheck %s --check-prefix=CPP
// RUN: mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=h100}' -t mpk-cuda | filecheck %s --check-prefix=CUDA
// RUN: mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=cpu workers=3}' -t mpk-table | filecheck %s --check-prefix=TABLE
// RUN: mpk-opt %S/Inputs/mlp.mlir -p mpk-fuse-operators,mpk-split-reductions --print-between-passes --time-passes | filecheck %s --check-prefix=BETWEEN

// CHECK: mpk.workers = 3
// CHECK: mpk_event.tensor
// CHECK: mpk_task.grid

// CPP: #include "mpk/linear.hpp"
// CPP: static constexpr int workers = 3;
// CPP: extern "C" int mpk_run

// CUDA: #include <mpk/runtime.cuh>
// CUDA: struct program {
// CUDA: MPK_KERNEL(program)

// TABLE: mpkt 1
// TABLE: buffer a.weight
// TABLE: worker 0
// TABLE: worker 2

// BETWEEN: Pass mpk-fuse-operators took {{.*}} seconds
// BETWEEN: IR after mpk-fuse-operators:
// BETWEEN: Pass mpk-split-reductions took {{.*}} seconds
