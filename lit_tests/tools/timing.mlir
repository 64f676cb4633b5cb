// RUN: mpk-opt %S/Inputs/mlp.mlir -p 'mpk-pipeline{target=cpu workers=2}' --timing -o /dev/null 2>&1 | filecheck %s

// Passes inside the default pipeline are told one by one.
// CHECK:      ms {{.*}} %  mpk-raise
// CHECK-NEXT: ms {{.*}} %  mpk-fuse-operators
// CHECK:      ms {{.*}} %  mpk-verify-schedule
// CHECK-NEXT: ms          in all, peak memory {{.*}} MiB
