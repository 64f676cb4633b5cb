// RUN: mpk-opt %s -t mpk-cpu | filecheck %s

// A norm before a product is computed once for a run of tasks; the last tile of features is cut off;
// the epilogue is a lambda on fp32 sums.

// CHECK:      #include "mpk/linear.hpp"
// CHECK-NEXT: #include "mpk/norms.hpp"
// CHECK-NEXT: #include "mpk/runtime.hpp"
// CHECK-NEXT: #include "mpk/tile.hpp"

// CHECK:      // @l0.o, @l1.o
// CHECK-NEXT: void body_0(
// CHECK:        const long g0 = index;
// CHECK-NEXT:   const auto r0 = mpk::tile<const mpk::bf16, mpk::Dims<1, 8>, mpk::Dims<1, 8>>(operands[0], 0, 0);
// CHECK-NEXT:   const auto r1 = mpk::tile<const mpk::bf16, mpk::Dims<4, 8>, mpk::Dims<6, 8>, mpk::Dims<1, 0>>(operands[1], (g0 * 4), 0);
// CHECK:        const auto w0 = mpk::tile<mpk::bf16, mpk::Dims<1, 4>, mpk::Dims<1, 6>, mpk::Dims<0, 1>>(operands[3], 0, (g0 * 4));
// CHECK-NEXT:   const auto t1 = mpk::local<float, mpk::Dims<1, 8>>(context.at<float>(0));
// CHECK-NEXT:   const decltype(r1) t2[] = {r1};
// CHECK-NEXT:   if (context.first_of_run) {
// CHECK-NEXT:     mpk::rms_norm(t1, r0, r2, 1e-05f);
// CHECK-NEXT:   }
// CHECK-NEXT:   mpk::linear<1>(context.first_of_run, context.at<float>(64), w0, t1, t2, [](float a0) {
// CHECK-SAME:     const float v0 = mpk::exp(a0); const float v1 = v0; return v1; });
// CHECK-NEXT: }

// CHECK:      void prefetch_0(
// CHECK:        mpk::prefetch(r1);

// CHECK:      // @join
// CHECK-NEXT: void body_1(
// CHECK-NEXT:   const long g0 = index;
// CHECK-NEXT: }

// CHECK:      struct Program {
// CHECK-NEXT:   static constexpr int workers = 2;
// CHECK-NEXT:   static constexpr int tokens_per_step = 1;
// CHECK-NEXT:   static constexpr bool dynamic = false;
// CHECK-NEXT:   static constexpr int ranks = 1;
// CHECK-NEXT:   static constexpr long scratch_bytes = 192;
// CHECK:          case 0: return body_0(context, operands, index);
// CHECK-NEXT:     case 1: return body_1(context, operands, index);
// CHECK:          case 0: return prefetch_0(operands, index);
// CHECK:      extern "C" int mpk_run(
builtin.module attributes {mpk.workers = 2 : i64} {
func.func @step() {
  %x = mpk_task.buffer scratch "x" : memref<1x8xbf16>
  %g = mpk_task.buffer weight "g" : memref<8xbf16>
  %w0 = mpk_task.buffer weight "w0" : memref<6x8xbf16>
  %w1 = mpk_task.buffer weight "w1" : memref<6x8xbf16>
  %y = mpk_task.buffer scratch "y" : memref<1x6xbf16>
  %z = mpk_task.buffer scratch "z" : memref<1x6xbf16>
  mpk_task.grid @l0.o [2] reads(%x, %w0, %g : memref<1x8xbf16>, memref<6x8xbf16>, memref<8xbf16>)
    writes(%y : memref<1x6xbf16>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0)>, [8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<4x8xbf16>, %2 : tensor<8xbf16>):
    %3 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%a : tensor<1x8xbf16>, %b : tensor<8xbf16>):
      %c = mpk_tensor.rms_norm %a, %b eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
      mpk_tensor.yield %c : tensor<1x8xbf16>
    } with %2 : tensor<8xbf16> epilogue {
    ^bb1(%a : f32):
      %b = math.exp %a : f32
      %c = arith.truncf %b : f32 to bf16
      mpk_tensor.yield %c : bf16
    } : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
    mpk_task.yield %3 : tensor<1x4xbf16>
  }
  mpk_task.grid @l1.o [2] reads(%x, %w1, %g : memref<1x8xbf16>, memref<6x8xbf16>, memref<8xbf16>)
    writes(%z : memref<1x6xbf16>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0)>, [8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<4x8xbf16>, %2 : tensor<8xbf16>):
    %3 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%a : tensor<1x8xbf16>, %b : tensor<8xbf16>):
      %c = mpk_tensor.rms_norm %a, %b eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
      mpk_tensor.yield %c : tensor<1x8xbf16>
    } with %2 : tensor<8xbf16> epilogue {
    ^bb1(%a : f32):
      %b = math.exp %a : f32
      %c = arith.truncf %b : f32 to bf16
      mpk_tensor.yield %c : bf16
    } : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
    mpk_task.yield %3 : tensor<1x4xbf16>
  }
  mpk_task.grid @join [1] boxes [] {
    mpk_task.yield
  }
  func.return
}
}
