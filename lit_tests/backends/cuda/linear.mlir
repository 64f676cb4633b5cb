// RUN: mpk-opt %s -t mpk-cuda | filecheck %s

// A streamed product: shapes and stages as constants, the norm as prologue, bias and residual fetched
// before the sums are there. The last of five tasks has one row. Families alike share a body.

// CHECK:      // RingLinear: @a, @b
// CHECK-NEXT: struct body_0 {
// CHECK:        static constexpr int T = 1;
// CHECK-NEXT:   static constexpr int K = 128;
// CHECK-NEXT:   static constexpr int N = 33;
// CHECK-NEXT:   static constexpr int ROWS = 8;
// CHECK-NEXT:   static constexpr int J = 1;
// CHECK-NEXT:   using Weight = mpk::bf16;
// CHECK-NEXT:   MPK_MEMBER int weight(int j) { return 1; }
// CHECK-NEXT:   MPK_MEMBER int first_row(int index) { return (c0(index) * 8); }
// CHECK-NEXT:   static constexpr bool same_x = true;
// CHECK:        struct prologue {
// CHECK-NEXT:     static constexpr mpk::Norm norm = mpk::Norm::rms;
// CHECK:            if constexpr (E > 1) mpk::load_vector<mpk::bf16, E>(p0(w, 0, k)).unpack(x);
// CHECK:          static constexpr float eps = 1e-05f;
// CHECK-NEXT:     static constexpr bool constant_scale = true;
// CHECK:            if constexpr (E > 1) mpk::load_constant_vector<mpk::bf16, E>(p2(w, k)).unpack(g);
// CHECK:        struct epilogue {
// CHECK-NEXT:     struct Inputs {
// CHECK-NEXT:       float e0;
// CHECK-NEXT:       void request(const mpk::Work& w, int t, int row) { e0 = r3(w, 0, row); }
// CHECK-NEXT:       bool arrived(mpk::u32 tag) const {
// CHECK-NEXT:         return true;
// CHECK:            = y[0];
// CHECK:            = in.e0;
// CHECK:            if ((c0(w.index) * 8) + row < 33) mpk::store(p4(w, 0, row),
// CHECK:        static constexpr int STAGE_ROWS = 8;
// CHECK-NEXT:   static constexpr int PARTS = 1;
// CHECK:      using kernel_0 = mpk::RingLinear<body_0>;

// Rows of six bytes do not stream.

// CHECK:      // DirectLinear: @narrow
// CHECK:      using kernel_1 = mpk::DirectLinear<body_1>;

// CHECK:      struct program {
// CHECK-NEXT:   static constexpr int tokens = 1;
// CHECK-NEXT:   static constexpr int shared_bytes = 232448;
// CHECK:        using bodies = mpk::Bodies<kernel_0, kernel_1>;
// CHECK:            case 1: visitor.template visit<kernel_1>(); break;
// CHECK:      MPK_KERNEL(program)
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x128xbf16>
  %g = mpk_task.buffer weight "g" : memref<128xbf16>
  %w = mpk_task.buffer weight "w" : memref<33x128xbf16>
  %v = mpk_task.buffer weight "v" : memref<33x128xbf16>
  %r = mpk_task.buffer input "r" : memref<1x33xbf16>
  %y = mpk_task.buffer output "y" : memref<1x33xbf16>
  %z = mpk_task.buffer output "z" : memref<1x33xbf16>
  mpk_task.grid @a [5] reads(%x, %w, %g, %r : memref<1x128xbf16>, memref<33x128xbf16>, memref<128xbf16>, memref<1x33xbf16>) writes(%y : memref<1x33xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 128]>, #mpk_task.region<affine_map<(d0) -> (0)>, [128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] stream <[1], rows 8, parts 1> {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<8x128xbf16>, %2 : tensor<128xbf16>, %3 : tensor<1x8xbf16>):
    %4 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%5 : tensor<1x128xbf16>, %6 : tensor<128xbf16>):
      %7 = mpk_tensor.rms_norm %5, %6 eps 1.0e-5 : (tensor<1x128xbf16>, tensor<128xbf16>) -> tensor<1x128xf32>
      mpk_tensor.yield %7 : tensor<1x128xf32>
    } with %2 : tensor<128xbf16> epilogue {
    ^bb1(%8 : f32, %9 : bf16):
      %10 = arith.extf %9 : bf16 to f32
      %11 = arith.addf %8, %10 : f32
      %12 = arith.truncf %11 : f32 to bf16
      mpk_tensor.yield %12 : bf16
    } with %3 : tensor<1x8xbf16> : tensor<1x128xbf16>, [tensor<8x128xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %4 : tensor<1x8xbf16>
  }
  mpk_task.grid @b [5] reads(%x, %v, %g, %r : memref<1x128xbf16>, memref<33x128xbf16>, memref<128xbf16>, memref<1x33xbf16>) writes(%z : memref<1x33xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 128]>, #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 128]>, #mpk_task.region<affine_map<(d0) -> (0)>, [128]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] stream <[1], rows 8, parts 1> {
  ^bb0(%0 : tensor<1x128xbf16>, %1 : tensor<8x128xbf16>, %2 : tensor<128xbf16>, %3 : tensor<1x8xbf16>):
    %4 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%5 : tensor<1x128xbf16>, %6 : tensor<128xbf16>):
      %7 = mpk_tensor.rms_norm %5, %6 eps 1.0e-5 : (tensor<1x128xbf16>, tensor<128xbf16>) -> tensor<1x128xf32>
      mpk_tensor.yield %7 : tensor<1x128xf32>
    } with %2 : tensor<128xbf16> epilogue {
    ^bb1(%8 : f32, %9 : bf16):
      %10 = arith.extf %9 : bf16 to f32
      %11 = arith.addf %8, %10 : f32
      %12 = arith.truncf %11 : f32 to bf16
      mpk_tensor.yield %12 : bf16
    } with %3 : tensor<1x8xbf16> : tensor<1x128xbf16>, [tensor<8x128xbf16>] to tensor<1x8xbf16>
    mpk_task.yield %4 : tensor<1x8xbf16>
  }
  %x3 = mpk_task.buffer input "x3" : memref<1x3xbf16>
  %w3 = mpk_task.buffer weight "w3" : memref<24x3xbf16>
  %y3 = mpk_task.buffer output "y3" : memref<1x24xbf16>
  mpk_task.grid @narrow [4] reads(%x3, %w3 : memref<1x3xbf16>, memref<24x3xbf16>) writes(%y3 : memref<1x24xbf16>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 3]>, #mpk_task.region<affine_map<(d0) -> (d0 * 6, 0)>, [6, 3]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 6)>, [1, 6]>] {
  ^bb0(%0 : tensor<1x3xbf16>, %1 : tensor<6x3xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x3xbf16>, [tensor<6x3xbf16>] to tensor<1x6xbf16>
    mpk_task.yield %2 : tensor<1x6xbf16>
  }
  func.return
}
