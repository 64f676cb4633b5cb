// RUN: ROUNDTRIP

// The choice of a router, and products whose weights it chooses.

// CHECK: func.func @step
func.func @step() {
  %x, %logits, %c = "test.op"() : () -> (tensor<2x8xbf16>, tensor<2x5xbf16>, tensor<6xf32>)
  %w, %v = "test.op"() : () -> (tensor<5x6x8xbf16>, tensor<5x8x3xbf16>)

  // CHECK: %p, %e = mpk_tensor.topk softmax_of_chosen %logits : tensor<2x5xbf16> to tensor<2x3xf32>, tensor<2x3xi64>
  %p, %e = mpk_tensor.topk softmax_of_chosen %logits : tensor<2x5xbf16> to tensor<2x3xf32>, tensor<2x3xi64>
  %s = mpk_tensor.reshape %e : tensor<2x3xi64> to tensor<6xi64>

  // CHECK: %plain = mpk_tensor.expert_linear %x, [%w] rows [2] of %s : tensor<2x8xbf16>, [tensor<5x6x8xbf16>], tensor<6xi64> to tensor<6x4xbf16>
  %plain = mpk_tensor.expert_linear %x, [%w] rows [2] of %s : tensor<2x8xbf16>, [tensor<5x6x8xbf16>], tensor<6xi64> to tensor<6x4xbf16>

  // CHECK-NEXT: %gated = mpk_tensor.expert_linear %x, [%w, %w] rows [0, 3] of %s epilogue {
  // CHECK:      } : tensor<2x8xbf16>, [tensor<5x6x8xbf16>, tensor<5x6x8xbf16>], tensor<6xi64> to tensor<6x3xbf16>
  %gated = mpk_tensor.expert_linear %x, [%w, %w] rows [0, 3] of %s epilogue {
  ^bb0(%a : f32, %b : f32):
    %d = arith.mulf %a, %b : f32
    %f = arith.truncf %d : f32 to bf16
    mpk_tensor.yield %f : bf16
  } : tensor<2x8xbf16>, [tensor<5x6x8xbf16>, tensor<5x6x8xbf16>], tensor<6xi64> to tensor<6x3xbf16>

  // CHECK: %sum = mpk_tensor.expert_linear %gated, [%v] rows [0] of %s scaled %c : tensor<6xf32> : tensor<6x3xbf16>, [tensor<5x8x3xbf16>], tensor<6xi64> to tensor<2x8xf32>
  %sum = mpk_tensor.expert_linear %gated, [%v] rows [0] of %s scaled %c : tensor<6xf32> : tensor<6x3xbf16>, [tensor<5x8x3xbf16>], tensor<6xi64> to tensor<2x8xf32>
  func.return
}
