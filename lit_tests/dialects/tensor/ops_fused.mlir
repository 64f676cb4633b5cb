// RUN: ROUNDTRIP

// Products and attention, with all that can be fused into them.

// CHECK: func.func @step
func.func @step() {
  %x, %w, %g, %bias = "test.op"() : () -> (tensor<1x1x8xbf16>, tensor<16x8xbf16>, tensor<8xbf16>, tensor<16xbf16>)
  // CHECK: %plain = mpk_tensor.linear %x, [%w] : tensor<1x1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x1x16xbf16>
  %plain = mpk_tensor.linear %x, [%w] : tensor<1x1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x1x16xbf16>
  // CHECK-NEXT: %kept, %v, %i = mpk_tensor.linear %x, [%w] : tensor<1x1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x1x16xbf16> best of 8 to tensor<1x1x2xf32>, tensor<1x1x2xi64>
  %kept, %v, %i = mpk_tensor.linear %x, [%w] : tensor<1x1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x1x16xbf16> best of 8 to tensor<1x1x2xf32>, tensor<1x1x2xi64>

  // CHECK-NEXT: %gated = mpk_tensor.linear %x, [%w, %w] prologue {
  // CHECK-NEXT: ^bb0(%0: tensor<1x1x8xbf16>, %1: tensor<8xbf16>):
  // CHECK-NEXT:   %2 = mpk_tensor.rms_norm
  // CHECK-NEXT:   mpk_tensor.yield %2 : tensor<1x1x8xf32>
  // CHECK-NEXT: } with %g : tensor<8xbf16> epilogue {
  // CHECK-NEXT: ^bb0(%a: f32, %b: f32, %c: bf16):
  // CHECK:      } with %bias : tensor<16xbf16> : tensor<1x1x8xbf16>, [tensor<16x8xbf16>, tensor<16x8xbf16>] to tensor<1x1x16xbf16>
  %gated = mpk_tensor.linear %x, [%w, %w] prologue {
  ^bb0(%0 : tensor<1x1x8xbf16>, %1 : tensor<8xbf16>):
    %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-05 : (tensor<1x1x8xbf16>, tensor<8xbf16>) -> tensor<1x1x8xf32>
    mpk_tensor.yield %2 : tensor<1x1x8xf32>
  } with %g : tensor<8xbf16> epilogue {
  ^bb0(%a : f32, %b : f32, %c : bf16):
    %d = arith.extf %c : bf16 to f32
    %e = arith.mulf %a, %b : f32
    %f = arith.addf %d, %e : f32
    %h = arith.truncf %f : f32 to bf16
    mpk_tensor.yield %h : bf16
  } with %bias : tensor<16xbf16> : tensor<1x1x8xbf16>, [tensor<16x8xbf16>, tensor<16x8xbf16>] to tensor<1x1x16xbf16>

  %lhs, %rhs = "test.op"() : () -> (tensor<2x3x4xf32>, tensor<2x4x5xf32>)
  // CHECK: %mm = mpk_tensor.matmul %lhs, %rhs : (tensor<2x3x4xf32>, tensor<2x4x5xf32>) -> tensor<2x3x5xf32>
  %mm = mpk_tensor.matmul %lhs, %rhs : (tensor<2x3x4xf32>, tensor<2x4x5xf32>) -> tensor<2x3x5xf32>

  %q, %k, %mask = "test.op"() : () -> (tensor<1x4x2x8xbf16>, tensor<1x2x6x8xbf16>, tensor<2x6xi1>)
  // CHECK: %sdpa = mpk_tensor.sdpa %q, %k, %k mask %mask scale 5.000000e-01 : (tensor<1x4x2x8xbf16>, tensor<1x2x6x8xbf16>, tensor<1x2x6x8xbf16>, tensor<2x6xi1>) -> tensor<1x4x2x8xbf16>
  %sdpa = mpk_tensor.sdpa %q, %k, %k mask %mask scale 0.5 : (tensor<1x4x2x8xbf16>, tensor<1x2x6x8xbf16>, tensor<1x2x6x8xbf16>, tensor<2x6xi1>) -> tensor<1x4x2x8xbf16>
  // CHECK-NEXT: %causal = mpk_tensor.sdpa causal %q, %k, %k scale 5.000000e-01
  %causal = mpk_tensor.sdpa causal %q, %k, %k scale 0.5 : (tensor<1x4x2x8xbf16>, tensor<1x2x6x8xbf16>, tensor<1x2x6x8xbf16>) -> tensor<1x4x2x8xbf16>

  %qt, %kt, %cache, %pos, %freq = "test.op"() : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1xi64>, tensor<4xf32>)
  // CHECK: %rot = mpk_tensor.rotary %qt, %pos, %freq : (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<4xf32>) -> tensor<1x1x4x8xf32>
  %rot = mpk_tensor.rotary %qt, %pos, %freq : (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<4xf32>) -> tensor<1x1x4x8xf32>
  // CHECK-NEXT: %rot2 = mpk_tensor.rotary interleaved %qt, %pos, %freq scale 2.000000e+00 :
  %rot2 = mpk_tensor.rotary interleaved %qt, %pos, %freq scale 2.0 : (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<4xf32>) -> tensor<1x1x4x8xbf16>

  // CHECK: %y, %kc, %vc = mpk_tensor.attention %qt, %kt, %kt cache %cache, %cache at %pos q_prologue {
  // CHECK: } with %pos, %freq : tensor<1xi64>, tensor<4xf32> k_prologue {
  // CHECK: } scale 5.000000e-01 window 16 soft_cap 3.000000e+01 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1x2x64x8xbf16>)
  %y, %kc, %vc = mpk_tensor.attention %qt, %kt, %kt cache %cache, %cache at %pos q_prologue {
  ^bb0(%0 : tensor<1x1x4x8xbf16>, %1 : tensor<1xi64>, %2 : tensor<4xf32>):
    %3 = mpk_tensor.rotary %0, %1, %2 : (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<4xf32>) -> tensor<1x1x4x8xf32>
    mpk_tensor.yield %3 : tensor<1x1x4x8xf32>
  } with %pos, %freq : tensor<1xi64>, tensor<4xf32> k_prologue {
  ^bb0(%0 : tensor<1x1x2x8xbf16>):
    mpk_tensor.yield %0 : tensor<1x1x2x8xbf16>
  } scale 0.5 window 16 soft_cap 30.0 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x64x8xbf16>, tensor<1x2x64x8xbf16>)
  %blocks = mpk_tensor.reshape %cache : tensor<1x2x64x8xbf16> to tensor<1x2x2x4x8x8xbf16>
  // CHECK: %acc, %stats, %kc2, %vc2 = mpk_tensor.attention_split chunks 9 origin %pos : tensor<1xi64> %qt, %kt, %kt cache %blocks, %blocks at %pos scale 5.000000e-01 :
  %acc, %stats, %kc2, %vc2 = mpk_tensor.attention_split chunks 9 origin %pos : tensor<1xi64> %qt, %kt, %kt cache %blocks, %blocks at %pos scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x8x8xbf16>, tensor<1x2x2x4x8x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x4x8xf32>, tensor<1x1x4x4x2xf32>, tensor<1x2x2x4x8x8xbf16>, tensor<1x2x2x4x8x8xbf16>)
  // CHECK-NEXT: %joined = mpk_tensor.attention_merge block 8 %acc, %stats at %pos : (tensor<1x1x4x4x8xf32>, tensor<1x1x4x4x2xf32>, tensor<1xi64>) -> tensor<1x1x4x8xbf16>
  %joined = mpk_tensor.attention_merge block 8 %acc, %stats at %pos : (tensor<1x1x4x4x8xf32>, tensor<1x1x4x4x2xf32>, tensor<1xi64>) -> tensor<1x1x4x8xbf16>
  // CHECK: %app = mpk_tensor.cache_append %cache, %knew at %pos
  %knew = mpk_tensor.reshape %kt : tensor<1x1x2x8xbf16> to tensor<1x2x1x8xbf16>
  %app = mpk_tensor.cache_append %cache, %knew at %pos : (tensor<1x2x64x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x64x8xbf16>
  func.return
}
