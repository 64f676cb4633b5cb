// Parts of a file are treated one by one, and what a verifier says can be the expected output.
// RUN: mpk-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: mpk_tensor.input "x"
func.func @first() {
  %x = mpk_tensor.input "x" : tensor<2xf32>
  mpk_tensor.output "y", %x : tensor<2xf32>
  func.return
}

// -----

// CHECK: Expected operandSegmentSizes property in mpk_tensor.linear operation.
func.func @second() {
  %x = mpk_tensor.input "x" : tensor<2x4xf32>
  %y = "mpk_tensor.linear"(%x) : (tensor<2x4xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// CHECK: mpk_tensor.input "z"
func.func @third() {
  %z = mpk_tensor.input "z" : tensor<3xf32>
  func.return
}
