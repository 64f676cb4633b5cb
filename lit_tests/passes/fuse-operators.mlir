// RUN: mpk-opt %s -p "mpk-fuse-operators" --split-input-file | filecheck %s

// Bias and residual go into the epilogue of the linear, although the residual is defined behind it. The
// accumulator is not rounded in between.

// CHECK-LABEL: func.func @epilogue
// CHECK:       %r = mpk_tensor.input
// CHECK-NEXT:  %s = mpk_tensor.linear %x, [%w] epilogue {
// CHECK-NEXT:  ^bb0(%[[A:.*]]: f32, %[[B:.*]]: bf16, %[[R:.*]]: bf16):
// CHECK-NEXT:  %[[WB:.*]] = arith.extf %[[B]]
// CHECK-NEXT:  %[[WR:.*]] = arith.extf %[[R]]
// CHECK-NEXT:  %[[S:.*]] = arith.addf %[[A]], %[[WB]] : f32
// CHECK-NEXT:  %[[T:.*]] = arith.addf %[[S]], %[[WR]] : f32
// CHECK-NEXT:  %[[U:.*]] = arith.truncf %[[T]] : f32 to bf16
// CHECK-NEXT:  mpk_tensor.yield %[[U]]
// CHECK-NEXT:  } with %b, %r
// CHECK-NEXT:  mpk_tensor.output "s", %s
func.func @epilogue() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<12x8xbf16>
  %b = mpk_tensor.weight "b" : tensor<12xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<12x8xbf16>] to tensor<1x12xbf16>
  %r = mpk_tensor.input "r" : tensor<1x12xbf16>
  %s = mpk_tensor.elementwise %b, %y, %r {
  ^bb0(%0 : bf16, %1 : bf16, %2 : bf16):
    %3 = arith.extf %0 : bf16 to f32
    %4 = arith.extf %1 : bf16 to f32
    %5 = arith.extf %2 : bf16 to f32
    %6 = arith.addf %4, %3 : f32
    %7 = arith.addf %6, %5 : f32
    %8 = arith.truncf %7 : f32 to bf16
    mpk_tensor.yield %8 : bf16
  } : (tensor<12xbf16>, tensor<1x12xbf16>, tensor<1x12xbf16>) -> tensor<1x12xbf16>
  mpk_tensor.output "s", %s : tensor<1x12xbf16>
  func.return
}

// -----

// A norm that only linears multiply is computed by each of them, in fp32.

// CHECK-LABEL: func.func @prologue
// CHECK-NOT:   mpk_tensor.rms_norm %x
// CHECK:       %a = mpk_tensor.linear %x, [%w] prologue {
// CHECK:       mpk_tensor.rms_norm {{.*}} -> tensor<1x8xf32>
// CHECK:       %b = mpk_tensor.linear %x, [%v] prologue {
// CHECK:       mpk_tensor.rms_norm {{.*}} -> tensor<1x8xf32>
func.func @prologue() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %g = mpk_tensor.weight "g" : tensor<8xbf16>
  %w = mpk_tensor.weight "w" : tensor<12x8xbf16>
  %v = mpk_tensor.weight "v" : tensor<4x8xbf16>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
  %a = mpk_tensor.linear %n, [%w] : tensor<1x8xbf16>, [tensor<12x8xbf16>] to tensor<1x12xbf16>
  %b = mpk_tensor.linear %n, [%v] : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
  mpk_tensor.output "a", %a : tensor<1x12xbf16>
  mpk_tensor.output "b", %b : tensor<1x4xbf16>
  func.return
}

// -----

// So is one whose fp32 result is rounded first.

// CHECK-LABEL: func.func @rounded_norm_into_linear
// CHECK:       mpk_tensor.linear %x, [%w] prologue
// CHECK:       mpk_tensor.rms_norm {{.*}} -> tensor<1x8xf32>
// CHECK-NOT:   mpk_tensor.elementwise
func.func @rounded_norm_into_linear() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %g = mpk_tensor.weight "g" : tensor<8xf32>
  %w = mpk_tensor.weight "w" : tensor<16x8xbf16>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xf32>) -> tensor<1x8xf32>
  %r = mpk_tensor.elementwise %n {
  ^bb0(%v: f32):
    %t = arith.truncf %v : f32 to bf16
    mpk_tensor.yield %t : bf16
  } : (tensor<1x8xf32>) -> tensor<1x8xbf16>
  %y = mpk_tensor.linear %r, [%w] : tensor<1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x16xbf16>
  mpk_tensor.output "y", %y : tensor<1x16xbf16>
  func.return
}

// -----

// A norm that is also added stays an operator: its value exists anyway.

// CHECK-LABEL: func.func @norm_stays
// CHECK:       %n = mpk_tensor.rms_norm %x, %g
// CHECK-NEXT:  mpk_tensor.linear %n, [%w] epilogue {
// CHECK:       } with %n : tensor<1x8xbf16>
func.func @norm_stays() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %g = mpk_tensor.weight "g" : tensor<8xbf16>
  %w = mpk_tensor.weight "w" : tensor<8x8xbf16>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
  %y = mpk_tensor.linear %n, [%w] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %s = mpk_tensor.elementwise %y, %n {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x8xbf16>, tensor<1x8xbf16>) -> tensor<1x8xbf16>
  mpk_tensor.output "s", %s : tensor<1x8xbf16>
  func.return
}

// -----

// A product that somebody else reads, here the world outside, is not changed.

// CHECK-LABEL: func.func @two_users
// CHECK:       %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>
// CHECK-NEXT:  %t = mpk_tensor.elementwise %y
func.func @two_users() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %w = mpk_tensor.weight "w" : tensor<12x8xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>, [tensor<12x8xf32>] to tensor<1x12xf32>
  %t = mpk_tensor.elementwise %y {
  ^bb0(%0 : f32):
    %1 = math.tanh %0 : f32
    mpk_tensor.yield %1 : f32
  } : (tensor<1x12xf32>) -> tensor<1x12xf32>
  mpk_tensor.output "y", %y : tensor<1x12xf32>
  mpk_tensor.output "t", %t : tensor<1x12xf32>
  func.return
}

// -----

// Nor is one that broadcasts to a larger result: an epilogue has the shape of the product.

// CHECK-LABEL: func.func @grows
// CHECK:       %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>
// CHECK-NEXT:  %t = mpk_tensor.elementwise %y, %z
func.func @grows() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %z = mpk_tensor.input "z" : tensor<3x12xf32>
  %w = mpk_tensor.weight "w" : tensor<12x8xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xf32>, [tensor<12x8xf32>] to tensor<1x12xf32>
  %t = mpk_tensor.elementwise %y, %z {
  ^bb0(%0 : f32, %1 : f32):
    %2 = arith.addf %0, %1 : f32
    mpk_tensor.yield %2 : f32
  } : (tensor<1x12xf32>, tensor<3x12xf32>) -> tensor<3x12xf32>
  mpk_tensor.output "t", %t : tensor<3x12xf32>
  func.return
}

// -----

// Chains of elementwise ops are one op with the operands of all.

// CHECK-LABEL: func.func @chain
// CHECK:       %b = mpk_tensor.elementwise %x, %c {
// CHECK-NEXT:  ^bb0(%[[X:.*]]: bf16, %[[C:.*]]: bf16):
// CHECK-NEXT:  %[[WX:.*]] = arith.extf %[[X]]
// CHECK-NEXT:  %[[T:.*]] = math.tanh %[[WX]] : f32
// CHECK-NEXT:  %[[WC:.*]] = arith.extf %[[C]]
// CHECK-NEXT:  %[[M:.*]] = arith.mulf %[[WC]], %[[T]] : f32
// CHECK-NEXT:  %[[R:.*]] = arith.truncf %[[M]] : f32 to bf16
// CHECK-NEXT:  mpk_tensor.yield %[[R]]
func.func @chain() {
  %x = mpk_tensor.input "x" : tensor<2x8xbf16>
  %c = mpk_tensor.input "c" : tensor<8xbf16>
  %a = mpk_tensor.elementwise %x {
  ^bb0(%0 : bf16):
    %1 = arith.extf %0 : bf16 to f32
    %2 = math.tanh %1 : f32
    %3 = arith.truncf %2 : f32 to bf16
    mpk_tensor.yield %3 : bf16
  } : (tensor<2x8xbf16>) -> tensor<2x8xbf16>
  %b = mpk_tensor.elementwise %c, %a {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.extf %0 : bf16 to f32
    %3 = arith.extf %1 : bf16 to f32
    %4 = arith.mulf %2, %3 : f32
    %5 = arith.truncf %4 : f32 to bf16
    mpk_tensor.yield %5 : bf16
  } : (tensor<8xbf16>, tensor<2x8xbf16>) -> tensor<2x8xbf16>
  mpk_tensor.output "b", %b : tensor<2x8xbf16>
  func.return
}

// -----

// The embedding reads the step's token itself.

// CHECK-LABEL: func.func @token
// CHECK-NOT:   sequence_read
// CHECK:       mpk_tensor.embedding %t, %s at %p
func.func @token() {
  %t = mpk_tensor.weight "t" : tensor<40x8xbf16>
  %s = mpk_tensor.state "tokens" initial -1 : tensor<17xi64>
  %p = mpk_tensor.position : tensor<1xi64>
  %i = mpk_tensor.sequence_read %s at %p : (tensor<17xi64>, tensor<1xi64>) -> tensor<1x1xi64>
  %e = mpk_tensor.embedding %t, %i : (tensor<40x8xbf16>, tensor<1x1xi64>) -> tensor<1x1x8xbf16>
  mpk_tensor.output "e", %e : tensor<1x1x8xbf16>
  func.return
}
