// A mistake on the command line or in the input ends in one message and exit code 1.
// RUN: not mpk-opt %S/Inputs/mlp.mlir -p mpk-fuse-operator 2>&1 | filecheck %s --check-prefix=NAME
// RUN: not mpk-opt %S/Inputs/mlp.mlir -p 'mpk-partition-tiles{worker=4}' 2>&1 | filecheck %s --check-prefix=OPTION
// RUN: not mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=h9000}' 2>&1 | filecheck %s --check-prefix=TARGET
// RUN: not mpk-opt %S/Inputs/mlp.mlir -t mpk-cpu 2>&1 | filecheck %s --check-prefix=SCHEDULE
// RUN: not mpk-opt %S/Inputs/mlp.mlir -t mpk-cuda 2>&1 | filecheck %s --check-prefix=TASKS
// RUN: not mpk-opt %S/Inputs/nothing.mlir 2>&1 | filecheck %s --check-prefix=MISSING
// RUN: not mpk-opt %s 2>&1 | filecheck %s --check-prefix=SYNTAX

// NAME: mpk-opt: error: no pass is named 'mpk-fuse-operator'; did you mean 'mpk-fuse-operators'?
// OPTION: mpk-opt: error: mpk-partition-tiles: provided arguments ["worker"] not found
// TARGET: mpk-opt: error: no machine is named 'h9000'; choose one of
// SCHEDULE: mpk-opt: error: the module has no schedule; run mpk-schedule-tasks before
// TASKS: mpk-opt: error: the module has no tasks; run mpk-partition-tiles before
// MISSING: mpk-opt: error: {{.*}}nothing.mlir: no such file or directory
// SYNTAX: mpk-opt: error: {{.*}}errors.mlir

func.func @f(
