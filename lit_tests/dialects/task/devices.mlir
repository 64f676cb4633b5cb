// RUN: mpk-opt %s | filecheck %s
// RUN: ROUNDTRIP
// RUN: sed 's/device 1/device -1/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix ERROR

// A buffer lies in the memory of one device, the first if it does not say.

// CHECK:      mpk_task.buffer scratch "part" : memref<8xf32>
// CHECK-NEXT: mpk_task.buffer state "k0" initial 7 device 1 : memref<8xi64>

// ERROR: devices count from 0, got -1
func.func @step() {
  %0 = mpk_task.buffer scratch "part" device 0 : memref<8xf32>
  %1 = mpk_task.buffer state "k0" initial 7 device 1 : memref<8xi64>
  func.return
}
