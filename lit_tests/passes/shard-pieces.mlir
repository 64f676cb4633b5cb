// RUN: mpk-opt %s -p "mpk-shard{tp=4 machine=h200}" --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-shard{tp=8 machine=h200}" --split-input-file | filecheck %s --check-prefix EIGHT

// Queries, keys and values of one product. A rank has a part of the rows of each, so that slices of
// the result are its heads, and nothing is gathered. Eight ranks share four heads of keys.

// CHECK-LABEL: func.func @attention
// CHECK-DAG:     %[[W:.*]] = mpk_tensor.weight "qkv" shard <dim 0 pieces [4096 of 4, 512 of 4, 512 of 4]> : tensor<1280x4096xbf16>
// CHECK-DAG:     %[[B:.*]] = mpk_tensor.weight "bias" shard <dim 0 pieces [4096 of 4, 512 of 4, 512 of 4]> : tensor<1280xbf16>
// CHECK-DAG:     mpk_tensor.weight "o" shard <dim 1 of 4> : tensor<4096x1024xbf16>
// CHECK-DAG:     mpk_tensor.state "ks" shard <dim 1 of 4> : tensor<1x1x512x128xbf16>
// CHECK:         %[[X:.*]] = mpk_tensor.linear %x, [%[[W]]]
// CHECK-SAME:      to tensor<1x1x1280xbf16>
// CHECK-NEXT:    %[[Y:.*]] = mpk_tensor.elementwise %[[X]], %[[B]]
// CHECK:         mpk_tensor.slice %[[Y]] dim 2 start 0 : tensor<1x1x1280xbf16> to tensor<1x1x1024xbf16>
// CHECK-NEXT:    mpk_tensor.slice %[[Y]] dim 2 start 1024 : tensor<1x1x1280xbf16> to tensor<1x1x128xbf16>
// CHECK-NEXT:    mpk_tensor.slice %[[Y]] dim 2 start 1152 : tensor<1x1x1280xbf16> to tensor<1x1x128xbf16>
// CHECK-NOT:     all_gather
// CHECK:         mpk_tensor.all_reduce
// CHECK-NOT:     all_
// CHECK:         func.return
// EIGHT-LABEL: func.func @attention
// EIGHT-DAG:     mpk_tensor.weight "qkv" shard <dim 0 pieces [4096 of 8, 512 of 4, 512 of 4]> : tensor<768x4096xbf16>
// EIGHT-DAG:     mpk_tensor.weight "o" shard <dim 1 of 8> : tensor<4096x512xbf16>
// EIGHT:         mpk_tensor.slice %{{.*}} dim 2 start 512 : tensor<1x1x768xbf16> to tensor<1x1x128xbf16>
// EIGHT-NEXT:    mpk_tensor.slice %{{.*}} dim 2 start 640 : tensor<1x1x768xbf16> to tensor<1x1x128xbf16>
// EIGHT-NOT:     all_gather
// EIGHT:         func.return
func.func @attention() {
  %p = mpk_tensor.position : tensor<1xi64>
  %x = mpk_tensor.input "x" : tensor<1x1x4096xbf16>
  %w = mpk_tensor.weight "qkv" : tensor<5120x4096xbf16>
  %b = mpk_tensor.weight "bias" : tensor<5120xbf16>
  %wo = mpk_tensor.weight "o" : tensor<4096x4096xbf16>
  %ks = mpk_tensor.state "ks" : tensor<1x4x512x128xbf16>
  %vs = mpk_tensor.state "vs" : tensor<1x4x512x128xbf16>
  %all = mpk_tensor.linear %x, [%w] : tensor<1x1x4096xbf16>, [tensor<5120x4096xbf16>] to tensor<1x1x5120xbf16>
  %qkv = mpk_tensor.elementwise %all, %b {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x1x5120xbf16>, tensor<5120xbf16>) -> tensor<1x1x5120xbf16>
  %q = mpk_tensor.slice %qkv dim 2 start 0 : tensor<1x1x5120xbf16> to tensor<1x1x4096xbf16>
  %k = mpk_tensor.slice %qkv dim 2 start 4096 : tensor<1x1x5120xbf16> to tensor<1x1x512xbf16>
  %v = mpk_tensor.slice %qkv dim 2 start 4608 : tensor<1x1x5120xbf16> to tensor<1x1x512xbf16>
  %qh = mpk_tensor.reshape %q : tensor<1x1x4096xbf16> to tensor<1x1x32x128xbf16>
  %kh = mpk_tensor.reshape %k : tensor<1x1x512xbf16> to tensor<1x1x4x128xbf16>
  %vh = mpk_tensor.reshape %v : tensor<1x1x512xbf16> to tensor<1x1x4x128xbf16>
  %a, %k1, %v1 = mpk_tensor.attention %qh, %kh, %vh cache %ks, %vs at %p scale 0.1 : (tensor<1x1x32x128xbf16>, tensor<1x1x4x128xbf16>, tensor<1x1x4x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1xi64>) -> (tensor<1x1x32x128xbf16>, tensor<1x4x512x128xbf16>, tensor<1x4x512x128xbf16>)
  %ah = mpk_tensor.reshape %a : tensor<1x1x32x128xbf16> to tensor<1x1x4096xbf16>
  %y = mpk_tensor.linear %ah, [%wo] : tensor<1x1x4096xbf16>, [tensor<4096x4096xbf16>] to tensor<1x1x4096xbf16>
  mpk_tensor.store_state "ks", %k1 : tensor<1x4x512x128xbf16>
  mpk_tensor.store_state "vs", %v1 : tensor<1x4x512x128xbf16>
  %r = mpk_tensor.elementwise %x, %y {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x1x4096xbf16>, tensor<1x1x4096xbf16>) -> tensor<1x1x4096xbf16>
  mpk_tensor.output "y", %r : tensor<1x1x4096xbf16>
  func.return
}

// -----

// Experts are divided like any MLP: a part of the rows of each one's gate and of what it gates, and
// of the columns that sum over these, whoever is chosen. Every second row of a stack (gates between
// what they gate) is every second one of a part.

// CHECK-LABEL: func.func @experts
// CHECK-DAG:     %[[GU:.*]] = mpk_tensor.weight "gate_up" shard <dim 1 pieces [4096 of 4, 4096 of 4]> : tensor<8x2048x4096xbf16>
// CHECK-DAG:     %[[D:.*]] = mpk_tensor.weight "down" shard <dim 2 of 4> : tensor<8x4096x1024xbf16>
// CHECK:         mpk_tensor.expert_linear %x, [%[[GU]]] rows [0] of %e
// CHECK-SAME:      to tensor<2x1024xbf16>
// CHECK-NEXT:    mpk_tensor.expert_linear %x, [%[[GU]]] rows [1024] of %e
// CHECK-SAME:      to tensor<2x1024xbf16>
// CHECK:         %[[P:.*]] = mpk_tensor.expert_linear %{{.*}}, [%[[D]]] rows [0] of %e scaled %s
// CHECK-SAME:      to tensor<1x4096xf32>
// CHECK-NEXT:    mpk_tensor.all_reduce %[[P]] of 4
// CHECK-NOT:     all_
// CHECK:         func.return
// EIGHT-LABEL: func.func @experts
// EIGHT:         mpk_tensor.weight "gate_up" shard <dim 1 pieces [4096 of 8, 4096 of 8]> : tensor<8x1024x4096xbf16>
func.func @experts() {
  %x = mpk_tensor.input "x" : tensor<1x4096xbf16>
  %e = mpk_tensor.input "e" : tensor<2xi64>
  %s = mpk_tensor.input "s" : tensor<2xf32>
  %gu = mpk_tensor.weight "gate_up" : tensor<8x8192x4096xbf16>
  %d = mpk_tensor.weight "down" : tensor<8x4096x4096xbf16>
  %g = mpk_tensor.expert_linear %x, [%gu] rows [0] of %e : tensor<1x4096xbf16>, [tensor<8x8192x4096xbf16>], tensor<2xi64> to tensor<2x4096xbf16>
  %u = mpk_tensor.expert_linear %x, [%gu] rows [4096] of %e : tensor<1x4096xbf16>, [tensor<8x8192x4096xbf16>], tensor<2xi64> to tensor<2x4096xbf16>
  %h = mpk_tensor.elementwise %g, %u {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.mulf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<2x4096xbf16>, tensor<2x4096xbf16>) -> tensor<2x4096xbf16>
  %y = mpk_tensor.expert_linear %h, [%d] rows [0] of %e scaled %s : tensor<2xf32> : tensor<2x4096xbf16>, [tensor<8x4096x4096xbf16>], tensor<2xi64> to tensor<1x4096xbf16>
  %r = mpk_tensor.elementwise %x, %y {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x4096xbf16>, tensor<1x4096xbf16>) -> tensor<1x4096xbf16>
  mpk_tensor.output "y", %r : tensor<1x4096xbf16>
  func.return
}

// -----

// CHECK-LABEL: func.func @interleaved
// CHECK-DAG:     mpk_tensor.weight "gate_up" shard <dim 1 of 4> : tensor<8x2048x4096xbf16>
// CHECK-DAG:     mpk_tensor.weight "down" shard <dim 2 of 4> : tensor<8x4096x1024xbf16>
// CHECK:         mpk_tensor.slice %{{.*}} dim 1 start 0 step 2 : tensor<2x2048xbf16> to tensor<2x1024xbf16>
// CHECK-NEXT:    mpk_tensor.slice %{{.*}} dim 1 start 1 step 2 : tensor<2x2048xbf16> to tensor<2x1024xbf16>
// CHECK:         mpk_tensor.all_reduce
// CHECK-NOT:     all_
// CHECK:         func.return
func.func @interleaved() {
  %x = mpk_tensor.input "x" : tensor<1x4096xbf16>
  %e = mpk_tensor.input "e" : tensor<2xi64>
  %s = mpk_tensor.input "s" : tensor<2xf32>
  %gu = mpk_tensor.weight "gate_up" : tensor<8x8192x4096xbf16>
  %d = mpk_tensor.weight "down" : tensor<8x4096x4096xbf16>
  %b = mpk_tensor.expert_linear %x, [%gu] rows [0] of %e : tensor<1x4096xbf16>, [tensor<8x8192x4096xbf16>], tensor<2xi64> to tensor<2x8192xbf16>
  %g = mpk_tensor.slice %b dim 1 start 0 step 2 : tensor<2x8192xbf16> to tensor<2x4096xbf16>
  %u = mpk_tensor.slice %b dim 1 start 1 step 2 : tensor<2x8192xbf16> to tensor<2x4096xbf16>
  %h = mpk_tensor.elementwise %g, %u {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.mulf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<2x4096xbf16>, tensor<2x4096xbf16>) -> tensor<2x4096xbf16>
  %y = mpk_tensor.expert_linear %h, [%d] rows [0] of %e scaled %s : tensor<2xf32> : tensor<2x4096xbf16>, [tensor<8x4096x4096xbf16>], tensor<2xi64> to tensor<1x4096xbf16>
  %r = mpk_tensor.elementwise %x, %y {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x4096xbf16>, tensor<1x4096xbf16>) -> tensor<1x4096xbf16>
  mpk_tensor.output "y", %r : tensor<1x4096xbf16>
  func.return
}

// -----

// Slices that overlap cut a value into three pieces, of which each has two. Whoever wants all of the
// value gets it from plain parts, as pieces are not gathered.

// CHECK-LABEL: func.func @overlapping
// CHECK:         mpk_tensor.weight "w" shard <dim 0 pieces [4096 of 4, 4096 of 4, 4096 of 4]> : tensor<3072x4096xbf16>
// CHECK:         mpk_tensor.slice %{{.*}} dim 1 start 0 : tensor<1x3072xbf16> to tensor<1x2048xbf16>
// CHECK-NEXT:    mpk_tensor.slice %{{.*}} dim 1 start 1024 : tensor<1x3072xbf16> to tensor<1x2048xbf16>
// CHECK:         func.return
func.func @overlapping() {
  %x = mpk_tensor.input "x" : tensor<1x4096xbf16>
  %w = mpk_tensor.weight "w" : tensor<12288x4096xbf16>
  %d = mpk_tensor.weight "d" : tensor<4096x4096xbf16>
  %all = mpk_tensor.linear %x, [%w] : tensor<1x4096xbf16>, [tensor<12288x4096xbf16>] to tensor<1x12288xbf16>
  %a = mpk_tensor.slice %all dim 1 start 0 : tensor<1x12288xbf16> to tensor<1x8192xbf16>
  %b = mpk_tensor.slice %all dim 1 start 4096 : tensor<1x12288xbf16> to tensor<1x8192xbf16>
  %c = mpk_tensor.elementwise %a, %b {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.mulf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x8192xbf16>, tensor<1x8192xbf16>) -> tensor<1x8192xbf16>
  %h = mpk_tensor.slice %c dim 1 start 4096 : tensor<1x8192xbf16> to tensor<1x4096xbf16>
  %y = mpk_tensor.linear %h, [%d] : tensor<1x4096xbf16>, [tensor<4096x4096xbf16>] to tensor<1x4096xbf16>
  %r = mpk_tensor.elementwise %x, %y {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x4096xbf16>, tensor<1x4096xbf16>) -> tensor<1x4096xbf16>
  mpk_tensor.output "y", %r : tensor<1x4096xbf16>
  func.return
}
