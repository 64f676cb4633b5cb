// RUN: mpk-opt %s -p "mpk-pipeline-tasks{machine=h100}" --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-pipeline-tasks{machine=h200}" --split-input-file | filecheck %s --check-prefix=H200

// Where the stream of weights is most of a step, one stage more is in flight than where families of
// tasks wait for each other: here 171 us of weights and one wait, there 3 us.

// CHECK-LABEL: func.func @streams
// CHECK:       mpk_task.ring slots 13 bytes 16384 in_flight 3
// H200:        mpk_task.ring slots 12 bytes 16384 in_flight 4
func.func @streams() {
  %x = mpk_task.buffer input "x" : memref<1x4096xbf16>
  %w = mpk_task.buffer weight "w" : memref<65536x4096xbf16>
  %y = mpk_task.buffer output "y" : memref<1x65536xbf16>
  mpk_task.grid @linear [8192] reads(%x, %w : memref<1x4096xbf16>, memref<65536x4096xbf16>) writes(%y : memref<1x65536xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 4096]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 4096]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x4096xbf16>, %1 : tensor<8x4096xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x4096xbf16>, [tensor<8x4096xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %2 : tensor<1x8xbf16>
  }
  func.return
}

// -----

// CHECK-LABEL: func.func @waits
// CHECK:       mpk_task.ring slots 13 bytes 16384 in_flight 2
// H200:        mpk_task.ring slots 12 bytes 16384 in_flight 2
func.func @waits() {
  %x = mpk_task.buffer input "x" : memref<1x4096xbf16>
  %w = mpk_task.buffer weight "w" : memref<1024x4096xbf16>
  %y = mpk_task.buffer output "y" : memref<1x1024xbf16>
  mpk_task.grid @linear [128] reads(%x, %w : memref<1x4096xbf16>, memref<1024x4096xbf16>) writes(%y : memref<1x1024xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 4096]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 4096]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x4096xbf16>, %1 : tensor<8x4096xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x4096xbf16>, [tensor<8x4096xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %2 : tensor<1x8xbf16>
  }
  func.return
}
