// RUN: not mpk-opt %s -p mpk-partition-tiles 2>&1 | filecheck %s

// One buffer cannot be read while another of the operator's operands updates it.

// CHECK: mpk_tensor.attention updates 'c' in place and reads it elsewhere, too
func.func @keys_are_values() {
  %q = mpk_tensor.input "q" : tensor<1x1x4x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x1x2x8xbf16>
  %c = mpk_tensor.state "c" : tensor<1x2x16x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %k cache %c, %c at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
  mpk_tensor.output "y", %y : tensor<1x1x4x8xbf16>
  mpk_tensor.store_state "c", %k1 : tensor<1x2x16x8xbf16>
  func.return
}
