// RUN: mpk-opt %s -t "mpk-cuda{machine=a100 tokens_per_step=2}" | filecheck %s

// Views and arithmetic fold into element functions; one skeleton, one rounding at the store.

// CHECK:      // Pointwise: @gate
// CHECK:        static constexpr int COUNT = 16;
// CHECK:        MPK_MEMBER float v{{[0-9]+}}(const mpk::Work& w, int i0, int i1) {
// CHECK-SAME:     = r0(w, i0, (4 + i1));
// CHECK-SAME:     = r1(w, i1);
// CHECK:        MPK_MEMBER void element(const mpk::Work& w, int i) { { mpk::store(p2(w, (i / 4), (i % 4)),
// CHECK:      using kernel_0 = mpk::Pointwise<body_0>;

// CHECK:      // ReduceMax: @top
// CHECK:        static constexpr int ROWS = 4;
// CHECK-NEXT:   static constexpr int K = 8;
// CHECK:      using kernel_1 = mpk::ReduceMax<body_1>;

// CHECK:        static constexpr int tokens = 2;
// CHECK-NEXT:   static constexpr int shared_bytes = 166912;
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<4x8xbf16>
  %g = mpk_task.buffer weight "g" : memref<4xf32>
  %y = mpk_task.buffer output "y" : memref<4x4xbf16>
  %m = mpk_task.buffer output "m" : memref<4x1xbf16>
  mpk_task.grid @gate [1] reads(%x, %g : memref<4x8xbf16>, memref<4xf32>) writes(%y : memref<4x4xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 8]>, #mpk_task.region<affine_map<(d0) -> (0)>, [4]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 4]>] {
  ^bb0(%0 : tensor<4x8xbf16>, %1 : tensor<4xf32>):
    %2 = mpk_tensor.slice %0 dim 1 start 4 : tensor<4x8xbf16> to tensor<4x4xbf16>
    %3 = mpk_tensor.elementwise %2, %1 {
    ^bb1(%4 : bf16, %5 : f32):
      %6 = arith.extf %4 : bf16 to f32
      %7 = arith.mulf %6, %5 : f32
      %8 = arith.truncf %7 : f32 to bf16
      mpk_tensor.yield %8 : bf16
    } : (tensor<4x4xbf16>, tensor<4xf32>) -> tensor<4x4xbf16>
    mpk_task.yield %3 : tensor<4x4xbf16>
  }
  mpk_task.grid @top [1] reads(%x : memref<4x8xbf16>) writes(%m : memref<4x1xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [4, 1]>] {
  ^bb0(%0 : tensor<4x8xbf16>):
    %1 = mpk_tensor.reduce max %0 dims [1] : tensor<4x8xbf16> to tensor<4x1xbf16>
    mpk_task.yield %1 : tensor<4x1xbf16>
  }
  func.return
}
