// RUN: not mpk-opt %s -p "mpk-pipeline{target=h101}" 2>&1 | filecheck %s --check-prefix=TARGET
// RUN: not mpk-opt %s -p "mpk-pipeline{targt=h100}" 2>&1 | filecheck %s --check-prefix=OPTION
// RUN: not mpk-opt %s -p "mpk-pipeline{workers=0}" 2>&1 | filecheck %s --check-prefix=WORKERS

// TARGET:  mpk-opt: error: no machine is named 'h101'; choose one of
// OPTION:  mpk-opt: error: mpk-pipeline: provided arguments ["targt"] not found
// WORKERS: mpk-opt: error: a machine needs at least one worker, got 0
func.func @step() {
  func.return
}
