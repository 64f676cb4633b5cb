// RUN: mpk-opt %s -p canonicalize | filecheck %s

// Chains of views become one, views that do nothing go, and reshapes stand wherever they suffice.

// CHECK: func.func @step
func.func @step() {
  // CHECK-NEXT: %x = mpk_tensor.input "x" : tensor<1x1x4x8xbf16>
  %x = mpk_tensor.input "x" : tensor<1x1x4x8xbf16>
  // CHECK-NEXT: %w = mpk_tensor.weight "w" : tensor<4x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<4x8xbf16>

  // A transpose of dimensions of size 1, a reshape, a broadcast that repeats nothing.
  // CHECK-NEXT: %[[R:.*]] = mpk_tensor.reshape %x : tensor<1x1x4x8xbf16> to tensor<1x4x8xbf16>
  // CHECK-NEXT: mpk_tensor.output "one", %[[R]]
  %0 = mpk_tensor.transpose %x [0, 2, 1, 3] : tensor<1x1x4x8xbf16> to tensor<1x4x1x8xbf16>
  %1 = mpk_tensor.reshape %0 : tensor<1x4x1x8xbf16> to tensor<4x8xbf16>
  %2 = mpk_tensor.broadcast %1 : tensor<4x8xbf16> to tensor<1x4x8xbf16>
  mpk_tensor.output "one", %2 : tensor<1x4x8xbf16>

  // Slices of slices of a concat: of the source they lie in.
  // CHECK-NEXT: %[[S:.*]] = mpk_tensor.slice %w dim 0 start 2 : tensor<4x8xbf16> to tensor<2x8xbf16>
  // CHECK-NEXT: mpk_tensor.output "two", %[[S]]
  %3 = mpk_tensor.concat %1, %w dim 0 : (tensor<4x8xbf16>, tensor<4x8xbf16>) -> tensor<8x8xbf16>
  %4 = mpk_tensor.slice %3 dim 0 start 5 : tensor<8x8xbf16> to tensor<3x8xbf16>
  %5 = mpk_tensor.slice %4 dim 0 start 1 : tensor<3x8xbf16> to tensor<2x8xbf16>
  mpk_tensor.output "two", %5 : tensor<2x8xbf16>

  // Steps multiply.
  // CHECK-NEXT: %[[E:.*]] = mpk_tensor.slice %w dim 1 start 3 step 4 : tensor<4x8xbf16> to tensor<4x2xbf16>
  // CHECK-NEXT: mpk_tensor.output "steps", %[[E]]
  %6 = mpk_tensor.slice %w dim 1 start 1 step 2 : tensor<4x8xbf16> to tensor<4x4xbf16>
  %7 = mpk_tensor.slice %6 dim 1 start 1 step 2 : tensor<4x4xbf16> to tensor<4x2xbf16>
  mpk_tensor.output "steps", %7 : tensor<4x2xbf16>

  // Two transposes that undo each other.
  // CHECK-NEXT: mpk_tensor.output "three", %w
  %8 = mpk_tensor.transpose %w [1, 0] : tensor<4x8xbf16> to tensor<8x4xbf16>
  %9 = mpk_tensor.transpose %8 [1, 0] : tensor<8x4xbf16> to tensor<4x8xbf16>
  mpk_tensor.output "three", %9 : tensor<4x8xbf16>

  // One that moves elements stays.
  // CHECK-NEXT: %[[T:.*]] = mpk_tensor.transpose %w [1, 0]
  // CHECK-NEXT: mpk_tensor.output "four", %[[T]]
  %10 = mpk_tensor.transpose %w [1, 0] : tensor<4x8xbf16> to tensor<8x4xbf16>
  mpk_tensor.output "four", %10 : tensor<8x4xbf16>

  // Views of a constant and of a range.
  // CHECK-NEXT: %[[F:.*]] = mpk_tensor.full 1.000000e+00 : f32 : tensor<2x3xf32>
  // CHECK-NEXT: mpk_tensor.output "five", %[[F]]
  %11 = mpk_tensor.full 1.0 : f32 : tensor<3xf32>
  %12 = mpk_tensor.broadcast %11 : tensor<3xf32> to tensor<2x3xf32>
  mpk_tensor.output "five", %12 : tensor<2x3xf32>
  // CHECK-NEXT: %[[I:.*]] = mpk_tensor.iota start 7 step 6 : tensor<2xi64>
  // CHECK-NEXT: mpk_tensor.output "six", %[[I]]
  %13 = mpk_tensor.iota start 1 step 3 : tensor<8xi64>
  %14 = mpk_tensor.slice %13 dim 0 start 2 step 2 : tensor<8xi64> to tensor<2xi64>
  mpk_tensor.output "six", %14 : tensor<2xi64>

  // Concats along one dimension are one.
  // CHECK-NEXT: %[[C:.*]] = mpk_tensor.concat %w, %w, %w dim 0
  // CHECK-NEXT: mpk_tensor.output "seven", %[[C]]
  %15 = mpk_tensor.concat %w, %w dim 0 : (tensor<4x8xbf16>, tensor<4x8xbf16>) -> tensor<8x8xbf16>
  %16 = mpk_tensor.concat %15, %w dim 0 : (tensor<8x8xbf16>, tensor<4x8xbf16>) -> tensor<12x8xbf16>
  mpk_tensor.output "seven", %16 : tensor<12x8xbf16>
  func.return
}
