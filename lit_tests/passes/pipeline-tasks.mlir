// RUN: mpk-opt %s -p "mpk-pipeline-tasks{machine=h100 slot_bytes=1024 slots=8 in_flight=3}" | filecheck %s
// RUN: mpk-opt %s -p "mpk-pipeline-tasks{slot_bytes=128 slots=8}" | filecheck %s --check-prefix PARTS

// Rows of 256 bytes: four to a slot of 1024, which cuts the six rows of a task in two equal stages.
// In slots of 128 bytes a stage is half a row. An activation and rows of 6 bytes are not streamed.

// CHECK:      mpk_task.ring slots 8 bytes 1024 in_flight 3
// CHECK-NEXT: mpk_task.grid @linear [4]
// CHECK-SAME:   stream <[1], rows 3, parts 1>
// CHECK:      mpk_task.grid @of_activations [4]
// CHECK-NOT:    stream
// CHECK:      mpk_task.grid @narrow [4]
// CHECK-NOT:    stream
// CHECK:      func.return

// PARTS:      mpk_task.grid @linear [4]
// PARTS-SAME:   stream <[1], rows 1, parts 2>
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x128xbf16>
  %w = mpk_task.buffer weight "w" : memref<24x128xbf16>
  %y = mpk_task.buffer output "y" : memref<1x24xbf16>
  %a = mpk_task.buffer scratch "a" : memref<24x128xbf16>
  %x3 = mpk_task.buffer input "x3" : memref<1x3xbf16>
  %w3 = mpk_task.buffer weight "w3" : memref<24x3xbf16>
  mpk_task.grid @linear [4] reads(%x, %w : memref<1x128xbf16>, memref<24x128xbf16>) writes(%y : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 6, 0)>, [6, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 6)>, [1, 6]>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<6x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<6x128xbf16>] to tensor<1x6xbf16>
    mpk_task.yield %2 : tensor<1x6xbf16>
  }
  mpk_task.grid @of_activations [4] reads(%x, %a : memref<1x128xbf16>, memref<24x128xbf16>) writes(%y : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 6, 0)>, [6, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 6)>, [1, 6]>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<6x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<6x128xbf16>] to tensor<1x6xbf16>
    mpk_task.yield %2 : tensor<1x6xbf16>
  }
  mpk_task.grid @narrow [4] reads(%x3, %w3 : memref<1x3xbf16>, memref<24x3xbf16>) writes(%y : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 3]>, #mpk_task.region<affine_map<(d0) -> (d0 * 6, 0)>, [6, 3]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 6)>, [1, 6]>] {
  ^bb0(%0 : tensor<1x3xbf16>, %1 : tensor<6x3xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x3xbf16>, [tensor<6x3xbf16>] to tensor<1x6xbf16>
    mpk_task.yield %2 : tensor<1x6xbf16>
  }
  func.return
}
