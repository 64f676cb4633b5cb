// RUN: mpk-opt %s -p "mpk-pipeline-tasks{machine=h100 slot_bytes=1024 slots=8 in_flight=3 pack=true}" | filecheck %s

// Blocks of 8 rows by 32 columns are 512 bytes: a slot holds two of the four of a row of blocks. The
// table that an embedding reads, too, may lie packed; what is tiled by 6
// rows may not.

// CHECK:      mpk_task.buffer weight "w" packed : memref<24x128xbf16>
// CHECK:      mpk_task.buffer weight "table" packed : memref<32x128xbf16>
// CHECK:      mpk_task.buffer weight "odd" : memref<24x128xbf16>
// CHECK:      mpk_task.grid @linear [3]
// CHECK-SAME:   stream <[1], rows 8, parts 2>
// CHECK:      mpk_task.grid @embedding [1]
// CHECK-NOT:    stream
// CHECK:      mpk_task.grid @head [4]
// CHECK-SAME:   stream <[1], rows 8, parts 2>
// CHECK:      mpk_task.grid @odd [4]
// CHECK-SAME:   stream <[1], rows 3, parts 1>
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x128xbf16>
  %ids = mpk_task.buffer input "ids" : memref<1xi64>
  %w = mpk_task.buffer weight "w" : memref<24x128xbf16>
  %t = mpk_task.buffer weight "table" : memref<32x128xbf16>
  %o = mpk_task.buffer weight "odd" : memref<24x128xbf16>
  %y = mpk_task.buffer output "y" : memref<1x24xbf16>
  %e = mpk_task.buffer output "e" : memref<1x128xbf16>
  %z = mpk_task.buffer output "z" : memref<1x32xbf16>
  %q = mpk_task.buffer output "q" : memref<1x24xbf16>
  mpk_task.grid @linear [3] reads(%x, %w : memref<1x128xbf16>, memref<24x128xbf16>) writes(%y : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<8x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<8x128xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %2 : tensor<1x8xbf16>
  }
  mpk_task.grid @embedding [1] reads(%t, %ids : memref<32x128xbf16>, memref<1xi64>) writes(%e : memref<1x128xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [32, 128]>, #mpk_task.region<affine_map<(d0) -> (0)>, [1]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>] {
  ^bb0(%0 : tensor<32x128xbf16>, %1 : tensor<1xi64>):
    %2 = mpk_tensor.embedding %0, %1 : (tensor<32x128xbf16>, tensor<1xi64>) -> tensor<1x128xbf16>
    mpk_task.yield %2 : tensor<1x128xbf16>
  }
  mpk_task.grid @head [4] reads(%x, %t : memref<1x128xbf16>, memref<32x128xbf16>) writes(%z : memref<1x32xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<8x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<8x128xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %2 : tensor<1x8xbf16>
  }
  mpk_task.grid @odd [4] reads(%x, %o : memref<1x128xbf16>, memref<24x128xbf16>) writes(%q : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 6, 0)>, [6, 128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 6)>, [1, 6]>] {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<6x128xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x128xbf16>, [tensor<6x128xbf16>] to tensor<1x6xbf16>
    mpk_task.yield %2 : tensor<1x6xbf16>
  }
  func.return
}
