// RUN: mpk-opt %s -p "mpk-split-reductions{attention_chunk=40 argmax_chunks=3}" --split-input-file | filecheck %s

// 96 cache rows in blocks of 16, which make more equal chunks than 32 of the 40 asked for.

// CHECK-LABEL: func.func @attention
// CHECK:       %[[K:.*]] = mpk_tensor.reshape %kc : tensor<1x2x96x8xbf16> to tensor<1x2x1x6x16x8xbf16>
// CHECK-NEXT:  %[[W:.*]] = mpk_tensor.reshape %vc
// CHECK-NEXT:  %[[A:.*]], %[[S:.*]], %[[KN:.*]], %[[VN:.*]] = mpk_tensor.attention_split chunks 6 %q, %k, %v cache %[[K]], %[[W]] at %p
// CHECK-SAME:  scale 5.000000e-01 window 20
// CHECK-SAME:  -> (tensor<1x1x4x6x8xf32>, tensor<1x1x4x6x2xf32>
// CHECK-NEXT:  %y = mpk_tensor.attention_merge block 16 %[[A]], %[[S]] at %p
// CHECK-NEXT:  %k1 = mpk_tensor.reshape %[[KN]] : tensor<1x2x1x6x16x8xbf16> to tensor<1x2x96x8xbf16>
// CHECK-NEXT:  %v1 = mpk_tensor.reshape %[[VN]]
func.func @attention() {
  %q = mpk_tensor.input "q" : tensor<1x1x4x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x1x2x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x1x2x8xbf16>
  %kc = mpk_tensor.state "kc" : tensor<1x2x96x8xbf16>
  %vc = mpk_tensor.state "vc" : tensor<1x2x96x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 window 20 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x96x8xbf16>, tensor<1x2x96x8xbf16>)
  mpk_tensor.output "y", %y : tensor<1x1x4x8xbf16>
  mpk_tensor.store_state "kc", %k1 : tensor<1x2x96x8xbf16>
  mpk_tensor.store_state "vc", %v1 : tensor<1x2x96x8xbf16>
  func.return
}

// -----

// Ten logits in three parts; the merge appends the token to the sequence.

// CHECK-LABEL: func.func @argmax
// CHECK:       %[[V:.*]], %[[I:.*]] = mpk_tensor.argmax_partial chunk 4 %x
// CHECK-NEXT:  %[[T:.*]], %[[S:.*]] = mpk_tensor.argmax_merge %[[V]], %[[I]]
// CHECK-SAME:  append %s at %p
// CHECK-SAME:  stop [2, 5]
// CHECK-NEXT:  mpk_tensor.store_state "tokens", %[[S]]
// CHECK-NEXT:  mpk_tensor.output "i", %[[T]]
func.func @argmax() {
  %x = mpk_tensor.input "x" : tensor<1x1x10xf32>
  %s = mpk_tensor.state "tokens" initial -1 : tensor<17xi64>
  %p = mpk_tensor.position : tensor<1xi64>
  %i = mpk_tensor.argmax %x : tensor<1x1x10xf32> to tensor<1x1xi64>
  %t = mpk_tensor.sequence_append %s, %i at %p stop [2, 5] : (tensor<17xi64>, tensor<1x1xi64>, tensor<1xi64>) -> tensor<17xi64>
  mpk_tensor.store_state "tokens", %t : tensor<17xi64>
  mpk_tensor.output "i", %i : tensor<1x1xi64>
  func.return
}

// -----

// The append stays by itself where the token is read before it.

// CHECK-LABEL: func.func @read_before_append
// CHECK:       %[[T:.*]] = mpk_tensor.argmax_merge
// CHECK-NEXT:  mpk_tensor.output "i", %[[T]]
// CHECK-NEXT:  mpk_tensor.sequence_append %s, %[[T]] at %p
func.func @read_before_append() {
  %x = mpk_tensor.input "x" : tensor<1x1x10xf32>
  %s = mpk_tensor.state "tokens" initial -1 : tensor<17xi64>
  %p = mpk_tensor.position : tensor<1xi64>
  %i = mpk_tensor.argmax %x : tensor<1x1x10xf32> to tensor<1x1xi64>
  mpk_tensor.output "i", %i : tensor<1x1xi64>
  %t = mpk_tensor.sequence_append %s, %i at %p : (tensor<17xi64>, tensor<1x1xi64>, tensor<1xi64>) -> tensor<17xi64>
  mpk_tensor.store_state "tokens", %t : tensor<17xi64>
  func.return
}

// -----

// Parts carry f32 maxima, which do not hold every integer: such an argmax stays whole.

// CHECK-LABEL: func.func @integers
// CHECK:       mpk_tensor.argmax %x
func.func @integers() {
  %x = mpk_tensor.input "x" : tensor<1x10xi64>
  %i = mpk_tensor.argmax %x : tensor<1x10xi64> to tensor<1xi64>
  mpk_tensor.output "i", %i : tensor<1xi64>
  func.return
}

// -----

// Two heads of 8192 rows in 132 tasks: 64 chunks each, which take blocks of 32 rows in turn.

// CHECK-LABEL: func.func @long_cache
// CHECK:       mpk_tensor.attention_split chunks 64 %q
// CHECK-SAME:  tensor<1x2x4x64x32x8xbf16>
func.func @long_cache() {
  %q = mpk_tensor.input "q" : tensor<1x1x4x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x1x2x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x1x2x8xbf16>
  %kc = mpk_tensor.state "kc" : tensor<1x2x8192x8xbf16>
  %vc = mpk_tensor.state "vc" : tensor<1x2x8192x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x8192x8xbf16>, tensor<1x2x8192x8xbf16>, tensor<1xi64>) -> (tensor<1x1x4x8xbf16>, tensor<1x2x8192x8xbf16>, tensor<1x2x8192x8xbf16>)
  mpk_tensor.output "y", %y : tensor<1x1x4x8xbf16>
  mpk_tensor.store_state "kc", %k1 : tensor<1x2x8192x8xbf16>
  mpk_tensor.store_state "vc", %v1 : tensor<1x2x8192x8xbf16>
  func.return
}
