// RUN: mpk-opt %s -p "mpk-split-reductions{attention_chunk=16 attention_joins=true}" | filecheck %s --check-prefix=ROWS
// RUN: mpk-opt %s -p "mpk-split-reductions{attention_chunk=16 attention_bytes=3072 attention_joins=true}" | filecheck %s --check-prefix=BYTES
// RUN: mpk-opt %s -p "mpk-split-reductions{attention_chunk=64 attention_bytes=3072 attention_joins=true}" | filecheck %s --check-prefix=MORE

// A row of keys is 64 bytes here, so 3072 bytes are 48 rows: blocks of more than half as many that divide
// the cache. Where `attention_chunk` is more rows, it counts.

// ROWS:  mpk_tensor.reshape %kc : tensor<1x2x96x32xbf16> to tensor<1x2x1x6x16x32xbf16>
// BYTES: mpk_tensor.reshape %kc : tensor<1x2x96x32xbf16> to tensor<1x2x1x3x32x32xbf16>
// MORE:  mpk_tensor.reshape %kc : tensor<1x2x96x32xbf16> to tensor<1x2x1x2x48x32xbf16>
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
