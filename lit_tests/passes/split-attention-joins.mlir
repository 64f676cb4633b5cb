// RUN: mpk-opt %s -p "mpk-split-reductions{attention_chunk=40 attention_joins=true}" --split-input-file | filecheck %s

// Blocks of 24 of at most 40 rows: fewer chunks than of 16, but more rows of which nobody has to wait for others. The
// first of the four chunks is who joins the other three.

// CHECK-LABEL: func.func @attention
// CHECK:       %[[K:.*]] = mpk_tensor.reshape %kc : tensor<1x2x96x32xbf16> to tensor<1x2x1x4x24x32xbf16>
// CHECK-NEXT:  %[[W:.*]] = mpk_tensor.reshape %vc
// CHECK-NEXT:  %[[A:.*]], %[[S:.*]], %[[KN:.*]], %[[VN:.*]] = mpk_tensor.attention_split chunks 4 first 1 %q, %k, %v cache %[[K]], %[[W]] at %p
// CHECK-SAME:  -> (tensor<1x1x4x3x32xf32>, tensor<1x1x4x3x2xf32>
// CHECK-NEXT:  %y, %[[KJ:.*]], %[[VJ:.*]] = mpk_tensor.attention_join chunks 4 joins %[[A]], %[[S]] : tensor<1x1x4x3x32xf32>, tensor<1x1x4x3x2xf32> to %q, %k, %v cache %[[KN]], %[[VN]] at %p
// CHECK-SAME:  -> (tensor<1x1x4x32xbf16>, tensor<1x2x1x4x24x32xbf16>, tensor<1x2x1x4x24x32xbf16>)
// CHECK-NEXT:  %k1 = mpk_tensor.reshape %[[KJ]] : tensor<1x2x1x4x24x32xbf16> to tensor<1x2x96x32xbf16>
// CHECK-NEXT:  %v1 = mpk_tensor.reshape %[[VJ]]
func.func @attention() {
  %q = mpk_tensor.input "q" : tensor<1x1x4x32xbf16>
  %k = mpk_tensor.input "k" : tensor<1x1x2x32xbf16>
  %v = mpk_tensor.input "v" : tensor<1x1x2x32xbf16>
  %kc = mpk_tensor.state "kc" : tensor<1x2x96x32xbf16>
  %vc = mpk_tensor.state "vc" : tensor<1x2x96x32xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x32xbf16>, tensor<1x1x2x32xbf16>, tensor<1x1x2x32xbf16>, tensor<1x2x96x32xbf16>, tensor<1x2x96x32xbf16>, tensor<1xi64>) -> (tensor<1x1x4x32xbf16>, tensor<1x2x96x32xbf16>, tensor<1x2x96x32xbf16>)
  mpk_tensor.output "y", %y : tensor<1x1x4x32xbf16>
  mpk_tensor.store_state "kc", %k1 : tensor<1x2x96x32xbf16>
  mpk_tensor.store_state "vc", %v1 : tensor<1x2x96x32xbf16>
  func.return
}

// -----

// Heads of 8 elements are merged by tasks of their own.

// CHECK-LABEL: func.func @small_heads
// CHECK:       mpk_tensor.attention_split chunks 6 %q
// CHECK:       mpk_tensor.attention_merge
func.func @small_heads() {
  %q = mpk_tensor.input "q" : tensor<1x1x4x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x1x2x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x1x2x8xbf16>
  %kc = mpk_tensor.state "kc" : tensor<1x2x96x8xbf16>
  %vc = mpk_tensor.state "vc" : tensor<1x2x96x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1x2x96x8xbf16>)
  mpk_tensor.output "y", %y : tensor<1x1x4x8xbf16>
  mpk_tensor.store_state "kc", %k1 : tensor<1x2x96x8xbf16>
  mpk_tensor.store_state "vc", %v1 : tensor<1x2x96x8xbf16>
  func.return
}
