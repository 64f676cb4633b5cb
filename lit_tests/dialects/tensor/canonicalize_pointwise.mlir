// RUN: mpk-opt %s -p canonicalize | filecheck %s

// Operands once and needed, constants in the region, copies gone, no reduction of one element.

// CHECK: func.func @step
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<8xbf16>
  // CHECK:      %[[Y:.*]] = mpk_tensor.elementwise %x {
  // CHECK-NEXT: ^bb0(%[[A:.*]]: bf16):
  // CHECK-NEXT:   %[[TWO:.*]] = arith.constant 2.000000e+00 : bf16
  // CHECK-NEXT:   %[[M:.*]] = arith.mulf %[[A]], %[[A]] : bf16
  // CHECK-NEXT:   %[[S:.*]] = arith.addf %[[M]], %[[TWO]] : bf16
  // CHECK-NEXT:   mpk_tensor.yield %[[S]] : bf16
  // CHECK-NEXT: } : (tensor<8xbf16>) -> tensor<4x8xbf16>
  // CHECK-NEXT: mpk_tensor.output "y", %[[Y]]
  %b = mpk_tensor.broadcast %x : tensor<8xbf16> to tensor<4x8xbf16>
  %two = mpk_tensor.full 2.0 : bf16 : tensor<4x8xbf16>
  %y = mpk_tensor.elementwise %b, %x, %two {
  ^bb0(%0 : bf16, %1 : bf16, %2 : bf16):
    %3 = arith.extf %0 : bf16 to f32
    %4 = arith.truncf %3 : f32 to bf16
    %5 = arith.mulf %4, %1 : bf16
    %6 = arith.addf %5, %2 : bf16
    mpk_tensor.yield %6 : bf16
  } : (tensor<4x8xbf16>, tensor<8xbf16>, tensor<4x8xbf16>) -> tensor<4x8xbf16>
  mpk_tensor.output "y", %y : tensor<4x8xbf16>

  // CHECK-NEXT: %[[F:.*]] = mpk_tensor.full 2.000000e+00 : bf16 : tensor<4x8xbf16>
  // CHECK-NEXT: mpk_tensor.output "full", %[[F]]
  %full = mpk_tensor.elementwise %two {
  ^bb0(%0 : bf16):
    mpk_tensor.yield %0 : bf16
  } : (tensor<4x8xbf16>) -> tensor<4x8xbf16>
  mpk_tensor.output "full", %full : tensor<4x8xbf16>

  // CHECK-NEXT: mpk_tensor.output "copy", %x
  %copy = mpk_tensor.elementwise %x, %two {
  ^bb0(%0 : bf16, %1 : bf16):
    mpk_tensor.yield %0 : bf16
  } : (tensor<8xbf16>, tensor<4x8xbf16>) -> tensor<4x8xbf16>
  %row = mpk_tensor.slice %copy dim 0 start 0 : tensor<4x8xbf16> to tensor<1x8xbf16>
  %flat = mpk_tensor.elementwise %x {
  ^bb0(%0 : bf16):
    mpk_tensor.yield %0 : bf16
  } : (tensor<8xbf16>) -> tensor<8xbf16>
  mpk_tensor.output "copy", %flat : tensor<8xbf16>

  // CHECK-NEXT: %one = mpk_tensor.input "one"
  // CHECK-NEXT: mpk_tensor.output "one", %one
  %one = mpk_tensor.input "one" : tensor<1x1xf32>
  %sum = mpk_tensor.reduce sum %one dims [0, 1] : tensor<1x1xf32> to tensor<1x1xf32>
  mpk_tensor.output "one", %sum : tensor<1x1xf32>
  func.return
}
