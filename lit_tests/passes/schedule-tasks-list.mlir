// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=2 policy=list}" | filecheck %s
// RUN: mpk-opt %s -p "mpk-schedule-tasks{workers=2}" | filecheck %s --check-prefix TURNS

// Who has done a task for an event does the next one for it too, so that one signal does for both:
// task 1 of @k signals what task 0 of @q signals.

// CHECK:      mpk_task.grid @q [2]
// CHECK-SAME: workers [0, 1] slots [0, 0]
// CHECK:      mpk_task.grid @k [2]
// CHECK-SAME: workers [1, 0] slots [1, 1]

// TURNS:      mpk_task.grid @q [2]
// TURNS-SAME: workers [0, 1] slots [0, 0]
// TURNS:      mpk_task.grid @k [2]
// TURNS-SAME: workers [0, 1] slots [1, 1]
#zero = affine_map<(d0) -> (0, 0)>
#row = affine_map<(d0) -> (d0 * 8, 0)>
#column = affine_map<(d0) -> (0, d0 * 8)>
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x512xf32>
  %a = mpk_task.buffer output "a" : memref<1x16xf32>
  %b = mpk_task.buffer output "b" : memref<1x16xf32>
  %w = mpk_task.buffer weight "w" : memref<16x512xbf16>
  mpk_event.tensor @e counters 2 arrivals [2]
  mpk_task.grid @q [2] reads(%x, %w : memref<1x512xf32>, memref<16x512xbf16>)
      writes(%a : memref<1x16xf32>)
      boxes [#mpk_task.region<#zero, [1, 512]>, #mpk_task.region<#row, [8, 512]>,
             #mpk_task.region<#column, [1, 8]>]
      signals [#mpk_event.edge<@e, affine_map<(d0) -> (d0)>>] {
  ^bb0(%0 : tensor<1x512xf32>, %1 : tensor<8x512xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x512xf32>, [tensor<8x512xbf16>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @k [2] reads(%x, %w : memref<1x512xf32>, memref<16x512xbf16>)
      writes(%b : memref<1x16xf32>)
      boxes [#mpk_task.region<#zero, [1, 512]>, #mpk_task.region<#row, [8, 512]>,
             #mpk_task.region<#column, [1, 8]>]
      signals [#mpk_event.edge<@e, affine_map<(d0) -> (d0 * -1 + 1)>>] {
  ^bb0(%0 : tensor<1x512xf32>, %1 : tensor<8x512xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x512xf32>, [tensor<8x512xbf16>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  func.return
}
