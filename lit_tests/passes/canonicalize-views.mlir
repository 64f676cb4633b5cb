// RUN: mpk-opt %s -p mpk-canonicalize-views | filecheck %s

// A transpose of dimensions of size 1 is a reshape, reshapes join, and what changes nothing goes.

// CHECK-LABEL: func.func @views
// CHECK:         [[X:%\w+]] = mpk_tensor.input "x"
// CHECK-NEXT:    [[Y:%\w+]] = mpk_tensor.input "y"
// CHECK-NEXT:    [[A:%\w+]] = mpk_tensor.reshape [[X]] : tensor<1x1x4x8xf32> to tensor<4x8xf32>
// CHECK-NEXT:    mpk_tensor.output "joined", [[A]]
// CHECK-NEXT:    mpk_tensor.output "same", [[Y]]
// CHECK-NEXT:    [[T:%\w+]] = mpk_tensor.transpose [[Y]] [2, 0, 1]
// CHECK-NEXT:    mpk_tensor.output "turned", [[T]]
func.func @views() {
  %x = mpk_tensor.input "x" : tensor<1x1x4x8xf32>
  %y = mpk_tensor.input "y" : tensor<2x3x4xf32>
  %a = mpk_tensor.transpose %x [0, 2, 1, 3] : tensor<1x1x4x8xf32> to tensor<1x4x1x8xf32>
  %b = mpk_tensor.reshape %a : tensor<1x4x1x8xf32> to tensor<4x8xf32>
  mpk_tensor.output "joined", %b : tensor<4x8xf32>
  %c = mpk_tensor.transpose %y [1, 0, 2] : tensor<2x3x4xf32> to tensor<3x2x4xf32>
  %d = mpk_tensor.transpose %c [1, 0, 2] : tensor<3x2x4xf32> to tensor<2x3x4xf32>
  %e = mpk_tensor.slice %d dim 0 start 0 : tensor<2x3x4xf32> to tensor<2x3x4xf32>
  %f = mpk_tensor.broadcast %e : tensor<2x3x4xf32> to tensor<2x3x4xf32>
  %g = mpk_tensor.concat %f dim 1 : (tensor<2x3x4xf32>) -> tensor<2x3x4xf32>
  mpk_tensor.output "same", %g : tensor<2x3x4xf32>
  %h = mpk_tensor.transpose %y [2, 1, 0] : tensor<2x3x4xf32> to tensor<4x3x2xf32>
  %i = mpk_tensor.transpose %h [0, 2, 1] : tensor<4x3x2xf32> to tensor<4x2x3xf32>
  mpk_tensor.output "turned", %i : tensor<4x2x3xf32>
  func.return
}
