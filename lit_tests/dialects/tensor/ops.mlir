// RUN: ROUNDTRIP

// CHECK: func.func @step
func.func @step() {
  // What a program is made of.
  // CHECK-NEXT: %pos = mpk_tensor.position : tensor<1xi64>
  %pos = mpk_tensor.position : tensor<1xi64>
  // CHECK-NEXT: %seq = mpk_tensor.state "tokens" initial -1 : tensor<513xi64>
  %seq = mpk_tensor.state "tokens" initial -1 : tensor<513xi64>
  // CHECK-NEXT: %table = mpk_tensor.weight "table" : tensor<256x8xbf16>
  %table = mpk_tensor.weight "table" : tensor<256x8xbf16>
  // CHECK-NEXT: %in = mpk_tensor.input "in" : tensor<2x3x8xbf16>
  %in = mpk_tensor.input "in" : tensor<2x3x8xbf16>
  // CHECK-NEXT: %full = mpk_tensor.full 1.000000e+00 : f32 : tensor<1x100xf32>
  %full = mpk_tensor.full 1.0 : f32 : tensor<1x100xf32>
  // CHECK-NEXT: %iota = mpk_tensor.iota : tensor<3xi64>
  %iota = mpk_tensor.iota : tensor<3xi64>
  // CHECK-NEXT: %odd = mpk_tensor.iota start 1 step 2 : tensor<3xf32>
  %odd = mpk_tensor.iota start 1 step 2 : tensor<3xf32>

  // Views.
  // CHECK-NEXT: %r = mpk_tensor.reshape %in : tensor<2x3x8xbf16> to tensor<6x8xbf16>
  %r = mpk_tensor.reshape %in : tensor<2x3x8xbf16> to tensor<6x8xbf16>
  // CHECK-NEXT: %t = mpk_tensor.transpose %in [1, 0, 2] : tensor<2x3x8xbf16> to tensor<3x2x8xbf16>
  %t = mpk_tensor.transpose %in [1, 0, 2] : tensor<2x3x8xbf16> to tensor<3x2x8xbf16>
  // CHECK-NEXT: %s = mpk_tensor.slice %in dim 2 start 3 : tensor<2x3x8xbf16> to tensor<2x3x5xbf16>
  %s = mpk_tensor.slice %in dim 2 start 3 : tensor<2x3x8xbf16> to tensor<2x3x5xbf16>
  // CHECK-NEXT: %s2 = mpk_tensor.slice %in dim 2 start 3 step 2 : tensor<2x3x8xbf16> to tensor<2x3x3xbf16>
  %s2 = mpk_tensor.slice %in dim 2 start 3 step 2 : tensor<2x3x8xbf16> to tensor<2x3x3xbf16>
  // CHECK-NEXT: %b = mpk_tensor.broadcast %r : tensor<6x8xbf16> to tensor<4x6x8xbf16>
  %b = mpk_tensor.broadcast %r : tensor<6x8xbf16> to tensor<4x6x8xbf16>
  // CHECK-NEXT: %c = mpk_tensor.concat %s, %s2 dim 2 : (tensor<2x3x5xbf16>, tensor<2x3x3xbf16>) -> tensor<2x3x8xbf16>
  %c = mpk_tensor.concat %s, %s2 dim 2 : (tensor<2x3x5xbf16>, tensor<2x3x3xbf16>) -> tensor<2x3x8xbf16>

  // Pointwise operators, norms, reductions.
  // CHECK-NEXT: %e = mpk_tensor.elementwise %b, %r {
  // CHECK-NEXT: ^bb0(%0: bf16, %1: bf16):
  // CHECK-NEXT:   %2 = arith.addf %0, %1 : bf16
  // CHECK-NEXT:   mpk_tensor.yield %2 : bf16
  // CHECK-NEXT: } : (tensor<4x6x8xbf16>, tensor<6x8xbf16>) -> tensor<4x6x8xbf16>
  %e = mpk_tensor.elementwise %b, %r {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<4x6x8xbf16>, tensor<6x8xbf16>) -> tensor<4x6x8xbf16>
  %g = mpk_tensor.weight "g" : tensor<8xbf16>
  // CHECK: %n = mpk_tensor.rms_norm %in, %g eps 1.000000e-05 : (tensor<2x3x8xbf16>, tensor<8xbf16>) -> tensor<2x3x8xf32>
  %n = mpk_tensor.rms_norm %in, %g eps 1.0e-05 : (tensor<2x3x8xbf16>, tensor<8xbf16>) -> tensor<2x3x8xf32>
  // CHECK-NEXT: %m = mpk_tensor.rms_norm %in eps 1.000000e-05 : (tensor<2x3x8xbf16>) -> tensor<2x3x8xbf16>
  %m = mpk_tensor.rms_norm %in eps 1.0e-05 : (tensor<2x3x8xbf16>) -> tensor<2x3x8xbf16>
  // CHECK-NEXT: %l = mpk_tensor.layer_norm %in, %g, %g eps 1.000000e-05
  %l = mpk_tensor.layer_norm %in, %g, %g eps 1.0e-05 : (tensor<2x3x8xbf16>, tensor<8xbf16>, tensor<8xbf16>) -> tensor<2x3x8xbf16>
  // CHECK-NEXT: %p = mpk_tensor.softmax %in : tensor<2x3x8xbf16> to tensor<2x3x8xbf16>
  %p = mpk_tensor.softmax %in : tensor<2x3x8xbf16> to tensor<2x3x8xbf16>
  // CHECK-NEXT: %d = mpk_tensor.reduce mean %in dims [0, 2] : tensor<2x3x8xbf16> to tensor<1x3x1xbf16>
  %d = mpk_tensor.reduce mean %in dims [0, 2] : tensor<2x3x8xbf16> to tensor<1x3x1xbf16>

  // The token loop.
  // CHECK-NEXT: %id = mpk_tensor.sequence_read %seq at %pos : (tensor<513xi64>, tensor<1xi64>) -> tensor<1x1xi64>
  %id = mpk_tensor.sequence_read %seq at %pos : (tensor<513xi64>, tensor<1xi64>) -> tensor<1x1xi64>
  // CHECK-NEXT: %x = mpk_tensor.embedding %table, %id : (tensor<256x8xbf16>, tensor<1x1xi64>) -> tensor<1x1x8xbf16>
  %x = mpk_tensor.embedding %table, %id : (tensor<256x8xbf16>, tensor<1x1xi64>) -> tensor<1x1x8xbf16>
  // CHECK-NEXT: %x2 = mpk_tensor.embedding %table, %seq at %pos
  %x2 = mpk_tensor.embedding %table, %seq at %pos : (tensor<256x8xbf16>, tensor<513xi64>, tensor<1xi64>) -> tensor<1x1x8xbf16>
  // CHECK-NEXT: %best = mpk_tensor.argmax %full : tensor<1x100xf32> to tensor<1xi64>
  %best = mpk_tensor.argmax %full : tensor<1x100xf32> to tensor<1xi64>
  // CHECK-NEXT: %after = mpk_tensor.sequence_append %seq, %best at %pos stop [2, 7] : (tensor<513xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<513xi64>
  %after = mpk_tensor.sequence_append %seq, %best at %pos stop [2, 7] : (tensor<513xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<513xi64>
  // CHECK-NEXT: %v, %i = mpk_tensor.argmax_partial chunk 10 %full : (tensor<1x100xf32>) -> (tensor<1x10xf32>, tensor<1x10xi64>)
  %v, %i = mpk_tensor.argmax_partial chunk 10 %full : (tensor<1x100xf32>) -> (tensor<1x10xf32>, tensor<1x10xi64>)
  // CHECK-NEXT: %v2, %i2 = mpk_tensor.argmax_partial chunk 10 %full origin %pos
  %v2, %i2 = mpk_tensor.argmax_partial chunk 10 %full origin %pos : (tensor<1x100xf32>, tensor<1xi64>) -> (tensor<1x10xf32>, tensor<1x10xi64>)
  // CHECK-NEXT: %v3, %i3 = mpk_tensor.argmax_join chunk 4 part 10 %v, %i : (tensor<1x10xf32>, tensor<1x10xi64>) -> (tensor<1x3xf32>, tensor<1x3xi64>)
  %v3, %i3 = mpk_tensor.argmax_join chunk 4 part 10 %v, %i : (tensor<1x10xf32>, tensor<1x10xi64>) -> (tensor<1x3xf32>, tensor<1x3xi64>)
  // CHECK-NEXT: %v4, %i4 = mpk_tensor.argmax_join chunk 4 part 0 %v, %i origin %pos
  %v4, %i4 = mpk_tensor.argmax_join chunk 4 part 0 %v, %i origin %pos : (tensor<1x10xf32>, tensor<1x10xi64>, tensor<1xi64>) -> (tensor<1x3xf32>, tensor<1x3xi64>)
  // CHECK-NEXT: %k = mpk_tensor.argmax_merge %v, %i : tensor<1x10xf32>, tensor<1x10xi64> to tensor<1xi64>
  %k = mpk_tensor.argmax_merge %v, %i : tensor<1x10xf32>, tensor<1x10xi64> to tensor<1xi64>
  // CHECK-NEXT: %k2, %seq2 = mpk_tensor.argmax_merge %v, %i : tensor<1x10xf32>, tensor<1x10xi64> to tensor<1xi64> append %seq at %pos : tensor<513xi64>, tensor<1xi64> to tensor<513xi64> stop [2]
  %k2, %seq2 = mpk_tensor.argmax_merge %v, %i : tensor<1x10xf32>, tensor<1x10xi64> to tensor<1xi64> append %seq at %pos : tensor<513xi64>, tensor<1xi64> to tensor<513xi64> stop [2]
  // CHECK-NEXT: mpk_tensor.store_state "tokens", %seq2 : tensor<513xi64>
  mpk_tensor.store_state "tokens", %seq2 : tensor<513xi64>
  // CHECK-NEXT: mpk_tensor.output "e", %e : tensor<4x6x8xbf16>
  mpk_tensor.output "e", %e : tensor<4x6x8xbf16>
  func.return
}
