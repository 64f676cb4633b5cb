// RUN: mpk-opt %s -p "mpk-shard{tp=4 machine=h200}" --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-shard{tp=8 machine=h200}" --split-input-file | filecheck %s --check-prefix EIGHT
// RUN: mpk-opt %s -p "mpk-shard{tp=4 machine=h200 scatter=true}" --split-input-file | filecheck %s --check-prefix SCATTER
// RUN: mpk-opt %s -p "mpk-shard" --split-input-file | filecheck %s --check-prefix ONE

// ONE-NOT: mpk.mesh
// ONE-NOT: shard <

// A gated MLP. Nobody says how to divide it: rows of the first weights, which are features that the
// second one's columns sum over, so that there is one exchange, of partial sums in f32.

// CHECK:       builtin.module attributes {mpk.mesh = {tp = 4 : i64}} {
// CHECK-NEXT:    func.func @mlp
// CHECK-DAG:     mpk_tensor.weight "norm" : tensor<4096xbf16>
// CHECK-DAG:     %[[GATE:.*]] = mpk_tensor.weight "gate" shard <dim 0 of 4> : tensor<3072x4096xbf16>
// CHECK-DAG:     %[[UP:.*]] = mpk_tensor.weight "up" shard <dim 0 of 4> : tensor<3072x4096xbf16>
// CHECK-DAG:     %[[DOWN:.*]] = mpk_tensor.weight "down" shard <dim 1 of 4> : tensor<4096x3072xbf16>
// CHECK:         %[[N:.*]] = mpk_tensor.rms_norm
// CHECK-NEXT:    %[[H:.*]] = mpk_tensor.linear %[[N]], [%[[GATE]], %[[UP]]] epilogue {
// CHECK:         } : tensor<1x4096xbf16>, [tensor<3072x4096xbf16>, tensor<3072x4096xbf16>] to tensor<1x3072xbf16>
// CHECK-NEXT:    %[[P:.*]] = mpk_tensor.linear %[[H]], [%[[DOWN]]] : tensor<1x3072xbf16>, [tensor<4096x3072xbf16>] to tensor<1x4096xf32>
// CHECK-NEXT:    %[[Y:.*]] = mpk_tensor.all_reduce %[[P]] of 4 epilogue {
// CHECK:         } with %{{.*}} : tensor<4096xbf16> : tensor<1x4096xf32> to tensor<1x4096xbf16>
// CHECK-NEXT:    mpk_tensor.elementwise %x, %[[Y]]
// CHECK:         mpk_tensor.output "y", %{{.*}} : tensor<1x4096xbf16>
func.func @mlp() {
  %x = mpk_tensor.input "x" : tensor<1x4096xbf16>
  %g = mpk_tensor.weight "norm" : tensor<4096xbf16>
  %gate = mpk_tensor.weight "gate" : tensor<12288x4096xbf16>
  %up = mpk_tensor.weight "up" : tensor<12288x4096xbf16>
  %down = mpk_tensor.weight "down" : tensor<4096x12288xbf16>
  %bias = mpk_tensor.weight "bias" : tensor<4096xbf16>
  %n = mpk_tensor.rms_norm %x, %g eps 1.0e-6 : (tensor<1x4096xbf16>, tensor<4096xbf16>) -> tensor<1x4096xbf16>
  %h = mpk_tensor.linear %n, [%gate, %up] epilogue {
  ^bb0(%0 : f32, %1 : f32):
    %2 = math.tanh %0 : f32
    %3 = arith.mulf %2, %1 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } : tensor<1x4096xbf16>, [tensor<12288x4096xbf16>, tensor<12288x4096xbf16>] to tensor<1x12288xbf16>
  %d = mpk_tensor.linear %h, [%down] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %bias : tensor<4096xbf16> : tensor<1x12288xbf16>, [tensor<4096x12288xbf16>] to tensor<1x4096xbf16>
  %y = mpk_tensor.elementwise %x, %d {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x4096xbf16>, tensor<1x4096xbf16>) -> tensor<1x4096xbf16>
  mpk_tensor.output "y", %y : tensor<1x4096xbf16>
  func.return
}

// -----

// Attention is divided by heads, caches and what comes before with them. Eight ranks share four heads of
// keys: neighbours have the same.

// CHECK-LABEL: func.func @attention
// CHECK-DAG:     mpk_tensor.weight "q" shard <dim 0 of 4> : tensor<1024x4096xbf16>
// CHECK-DAG:     mpk_tensor.weight "k" shard <dim 0 of 4> : tensor<128x4096xbf16>
// CHECK-DAG:     mpk_tensor.weight "v" shard <dim 0 of 4> : tensor<128x4096xbf16>
// CHECK-DAG:     mpk_tensor.weight "o" shard <dim 1 of 4> : tensor<4096x1024xbf16>
// CHECK-DAG:     mpk_tensor.state "ks" shard <dim 1 of 4> : tensor<1x1x512x128xbf16>
// CHECK-DAG:     mpk_tensor.weight "f" : tensor<64xf32>
// CHECK:         mpk_tensor.reshape %{{.*}} : tensor<1x1x1024xbf16> to tensor<1x1x8x128xbf16>
// CHECK:         mpk_tensor.attention
// CHECK-NEXT:    ^bb0(%{{.*}}: tensor<1x1x8x128xbf16>, %{{.*}}: tensor<1xi64>, %{{.*}}: tensor<64xf32>):
// CHECK-NEXT:      mpk_tensor.rotary {{.*}} -> tensor<1x1x8x128xf32>
// CHECK:         -> (tensor<1x1x8x128xbf16>, tensor<1x1x512x128xbf16>, tensor<1x1x512x128xbf16>)
// CHECK:         mpk_tensor.all_reduce %{{.*}} of 4 : tensor<1x1x4096xf32> to tensor<1x1x4096xbf16>
// CHECK-NOT:     all_
// EIGHT-LABEL: func.func @attention
// EIGHT-DAG:     mpk_tensor.weight "q" shard <dim 0 of 8> : tensor<512x4096xbf16>
// EIGHT-DAG:     mpk_tensor.weight "k" shard <dim 0 of 4> : tensor<128x4096xbf16>
// EIGHT-DAG:     mpk_tensor.weight "v" shard <dim 0 of 4> : tensor<128x4096xbf16>
// EIGHT-DAG:     mpk_tensor.weight "o" shard <dim 1 of 8> : tensor<4096x512xbf16>
// EIGHT-DAG:     mpk_tensor.state "vs" shard <dim 1 of 4> : tensor<1x1x512x128xbf16>
// EIGHT:         mpk_tensor.all_reduce %{{.*}} of 8
func.func @attention() {
  %p = mpk_tensor.position : tensor<1xi64>
  %x = mpk_tensor.input "x" : tensor<1x1x4096xbf16>
  %wq = mpk_tensor.weight "q" : tensor<4096x4096xbf16>
  %wk = mpk_tensor.weight "k" : tensor<512x4096xbf16>
  %wv = mpk_tensor.weight "v" : tensor<512x4096xbf16>
  %wo = mpk_tensor.weight "o" : tensor<4096x4096xbf16>
  %f = mpk_tensor.weight "f" : tensor<64xf32>
  %ks = mpk_tensor.state "ks" : tensor<1x4x512x128xbf16>
  %vs = mpk_tensor.state "vs" : tensor<1x4x512x128xbf16>
  %q = mpk_tensor.linear %x, [%wq] : tensor<1x1x4096xbf16>, [tensor<4096x4096xbf16>] to tensor<1x1x4096xbf16>
  %k = mpk_tensor.linear %x, [%wk] : tensor<1x1x4096xbf16>, [tensor<512x4096xbf16>] to tensor<1x1x512xbf16>
  %v = mpk_tensor.linear %x, [%wv] : tensor<1x1x4096xbf16>, [tensor<512x4096xbf16>] to tensor<1x1x512xbf16>
  %qh = mpk_tensor.reshape %q : tensor<1x1x4096xbf16> to tensor<1x1x32x128xbf16>
  %kh = mpk_tensor.reshape %k : tensor<1x1x512xbf16> to tensor<1x1x4x128xbf16>
  %vh = mpk_tensor.reshape %v : tensor<1x1x512xbf16> to tensor<1x1x4x128xbf16>
  %a, %k1, %v1 = mpk_tensor.attention %qh, %kh, %vh cache %ks, %vs at %p q_prologue {
  ^bb0(%0 : tensor<1x1x32x128xbf16>, %1 : tensor<1xi64>, %2 : tensor<64xf32>):
    %3 = mpk_tensor.rotary %0, %1, %2 : (tensor<1x1x32x128xbf16>, tensor<1xi64>, tensor<64xf32>) -> tensor<1x1x32x128xf32>
    mpk_tensor.yield %3 : tensor<1x1x32x128xf32>
  } with %p, %f : tensor<1xi64>, tensor<64xf32> scale 0.1 : (tensor<1x1x32x128xbf16>, tensor<1x1x4x128xbf16>, tensor<1x1x4x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1xi64>) -> (tensor<1x1x32x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1x4x512x128xbf16>)
  %ah = mpk_tensor.reshape %a : tensor<1x1x32x128xbf16> to tensor<1x1x4096xbf16>
  %y = mpk_tensor.linear %ah, [%wo] : tensor<1x1x4096xbf16>, [tensor<4096x4096xbf16>] to tensor<1x1x4096xbf16>
  %r = mpk_tensor.elementwise %x, %y {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x1x4096xbf16>, tensor<1x1x4096xbf16>) -> tensor<1x1x4096xbf16>
  mpk_tensor.store_state "ks", %k1 : tensor<1x4x512x128xbf16>
  mpk_tensor.store_state "vs", %v1 : tensor<1x4x512x128xbf16>
  mpk_tensor.output "r", %r : tensor<1x1x4096xbf16>
  func.return
}

// -----

// A tied weight: whole to look up rows, words divided for the logits, of which each rank keeps its own as
// the output. All find the same token.

// CHECK-LABEL: func.func @tied
// CHECK-DAG:     %[[WHOLE:.*]] = mpk_tensor.weight "e" : tensor<32000x2048xbf16>
// CHECK-DAG:     %[[PART:.*]] = mpk_tensor.weight "e" shard <dim 0 of 4> : tensor<8000x2048xbf16>
// CHECK:         %[[X:.*]] = mpk_tensor.embedding %[[WHOLE]], %t
// CHECK-NEXT:    %[[L:.*]] = mpk_tensor.linear %[[X]], [%[[PART]]] {{.*}} to tensor<1x1x8000xbf16>
// CHECK-NEXT:    %[[ALL:.*]] = mpk_tensor.all_gather %[[L]] dim 2 of 4 : tensor<1x1x8000xbf16> to tensor<1x1x32000xbf16>
// CHECK-NEXT:    mpk_tensor.output "logits", %[[L]] shard <dim 2 of 4> : tensor<1x1x8000xbf16>
// CHECK-NEXT:    mpk_tensor.argmax %[[ALL]]
func.func @tied() {
  %t = mpk_tensor.input "t" : tensor<1x1xi64>
  %w = mpk_tensor.weight "e" : tensor<32000x2048xbf16>
  %x = mpk_tensor.embedding %w, %t : (tensor<32000x2048xbf16>, tensor<1x1xi64>) -> tensor<1x1x2048xbf16>
  %l = mpk_tensor.linear %x, [%w] : tensor<1x1x2048xbf16>, [tensor<32000x2048xbf16>] to tensor<1x1x32000xbf16>
  mpk_tensor.output "logits", %l : tensor<1x1x32000xbf16>
  %n = mpk_tensor.argmax %l : tensor<1x1x32000xbf16> to tensor<1x1xi64>
  mpk_tensor.output "n", %n : tensor<1x1xi64>
  func.return
}

// -----

// What is small is done by all: an exchange would take longer. What does not divide, too, and it is said.

// CHECK:       mpk.shard_remarks = [
// CHECK-SAME:    "l.small: whole on every rank, which takes less time than exchanging what 4 make of it",
// CHECK-SAME:    "2 x l.*.odd: 4095 features out of 2047 are whole on every rank; 3, 5, 7, 9, 13 or 15 would share them"
// CHECK-LABEL: func.func @whole
// CHECK-NOT:   shard <
// CHECK:       func.return
func.func @whole() {
  %x = mpk_tensor.input "x" : tensor<1x64xbf16>
  %z = mpk_tensor.input "z" : tensor<1x2047xbf16>
  %w0 = mpk_tensor.weight "w0" : tensor<128x64xbf16>
  %w1 = mpk_tensor.weight "w1" : tensor<4095x2047xbf16>
  %w2 = mpk_tensor.weight "w2" : tensor<4095x2047xbf16>
  %a = mpk_tensor.linear %x, [%w0] : tensor<1x64xbf16>, [tensor<128x64xbf16>] to tensor<1x128xbf16> loc("l.small")
  %b = mpk_tensor.linear %z, [%w1] : tensor<1x2047xbf16>, [tensor<4095x2047xbf16>] to tensor<1x4095xbf16> loc("l.0.odd")
  %c = mpk_tensor.linear %z, [%w2] : tensor<1x2047xbf16>, [tensor<4095x2047xbf16>] to tensor<1x4095xbf16> loc("l.1.odd")
  %s = mpk_tensor.softmax %a : tensor<1x128xbf16> to tensor<1x128xbf16>
  mpk_tensor.output "s", %s : tensor<1x128xbf16>
  mpk_tensor.output "b", %b : tensor<1x4095xbf16>
  mpk_tensor.output "c", %c : tensor<1x4095xbf16>
  func.return
}

// -----

// A sum that is wanted in parts only can be scattered, so that no rank gets what it does not read; not
// by default, as the simulator finds nothing in it.

// CHECK-LABEL:   func.func @scattered
// CHECK-NOT:       reduce_scatter
// CHECK:           func.return
// SCATTER-LABEL: func.func @scattered
// SCATTER:         %[[S:.*]] = mpk_tensor.reduce_scatter %{{.*}} dim 1 of 4 : tensor<16x2048xf32> to tensor<16x512xbf16>
// SCATTER-NEXT:    mpk_tensor.output "y", %[[S]] shard <dim 1 of 4> : tensor<16x512xbf16>
func.func @scattered() {
  %x = mpk_tensor.input "x" : tensor<16x2048xbf16>
  %w0 = mpk_tensor.weight "w0" : tensor<65536x2048xbf16>
  %w1 = mpk_tensor.weight "w1" : tensor<2048x65536xbf16>
  %h = mpk_tensor.linear %x, [%w0] : tensor<16x2048xbf16>, [tensor<65536x2048xbf16>] to tensor<16x65536xbf16>
  %y = mpk_tensor.linear %h, [%w1] : tensor<16x65536xbf16>, [tensor<2048x65536xbf16>] to tensor<16x2048xbf16>
  mpk_tensor.output "y", %y : tensor<16x2048xbf16>
  func.return
}
