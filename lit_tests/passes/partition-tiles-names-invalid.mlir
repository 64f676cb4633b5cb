// RUN: not mpk-opt %s -p mpk-partition-tiles 2>&1 | filecheck %s

// The world outside finds buffers by their names.

// CHECK: mpk-opt: error: 'x' is the name of one input and of one output; rename one of them
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<4xf32>
  mpk_tensor.output "x", %x : tensor<4xf32>
  func.return
}
