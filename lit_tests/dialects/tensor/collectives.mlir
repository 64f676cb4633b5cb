// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s
// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file --print-op-generic | filecheck %s --check-prefix GENERIC

// Shards of weights, of each part of a joined one, of states and outputs, and the three collectives.

// CHECK:       builtin.module attributes {mpk.mesh = {tp = 4 : i64}} {
// CHECK-NEXT:    %w = mpk_tensor.weight "o" shard <dim 1 of 4> : tensor<16x8xbf16>
// CHECK-NEXT:    %qkv = mpk_tensor.weight "qkv" parts <"q" : 8 shard <dim 0 of 4>, "k" : 4 shard <dim 0 of 2>, "v" : 4> : tensor<16x8xbf16>
// CHECK-NEXT:    %gu = mpk_tensor.weight "gate_up" shard <dim 1 pieces [8 of 4, 4 of 2, 3 of 1]> : tensor<2x7x8xbf16>
// CHECK-NEXT:    %pieces = mpk_tensor.weight "pieces" parts <"qkv" : 4 shard <dim 0 pieces [8 of 4, 4 of 2]>, "z" : 8> : tensor<12x8xbf16>
// CHECK-NEXT:    %c = mpk_tensor.state "c" initial 3 shard <dim 1 of 2> : tensor<1x2x4x8xbf16>
// CHECK-NEXT:    %x = mpk_tensor.input "x" : tensor<1x8xf32>
// CHECK-NEXT:    %r = mpk_tensor.input "r" : tensor<8xbf16>
// CHECK-NEXT:    %y = mpk_tensor.all_reduce %x of 4 epilogue {
// CHECK-NEXT:    ^bb0(%{{.*}}: f32, %{{.*}}: bf16):
// CHECK:         } with %r : tensor<8xbf16> : tensor<1x8xf32> to tensor<1x8xf32>
// CHECK-NEXT:    %z = mpk_tensor.all_reduce %x of 2 : tensor<1x8xf32> to tensor<1x8xbf16>
// CHECK-NEXT:    %g = mpk_tensor.all_gather %z dim 1 of 2 : tensor<1x8xbf16> to tensor<1x16xbf16>
// CHECK-NEXT:    %s = mpk_tensor.reduce_scatter %x dim 1 of 4 : tensor<1x8xf32> to tensor<1x2xbf16>
// CHECK-NEXT:    mpk_tensor.output "s", %s shard <dim 1 of 4> : tensor<1x2xbf16>
// GENERIC:       shard = #mpk_tensor.shard<dim 1 of 4>
// GENERIC:       parts = #mpk_tensor.parts<"q" : 8 shard <dim 0 of 4>, "k" : 4 shard <dim 0 of 2>, "v" : 4>
builtin.module attributes {mpk.mesh = {tp = 4}} {
  %w = mpk_tensor.weight "o" shard <dim 1 of 4> : tensor<16x8xbf16>
  %qkv = mpk_tensor.weight "qkv" parts <"q" : 8 shard <dim 0 of 4>, "k" : 4 shard <dim 0 of 2>, "v" : 4> : tensor<16x8xbf16>
  %gu = mpk_tensor.weight "gate_up" shard <dim 1 pieces [8 of 4, 4 of 2, 3 of 1]> : tensor<2x7x8xbf16>
  %pieces = mpk_tensor.weight "pieces" parts <"qkv" : 4 shard <dim 0 pieces [8 of 4, 4 of 2]>, "z" : 8> : tensor<12x8xbf16>
  %c = mpk_tensor.state "c" initial 3 shard <dim 1 of 2> : tensor<1x2x4x8xbf16>
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %r = mpk_tensor.input "r" : tensor<8xbf16>
  %y = mpk_tensor.all_reduce %x of 4 epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    mpk_tensor.yield %3 : f32
  } with %r : tensor<8xbf16> : tensor<1x8xf32> to tensor<1x8xf32>
  %z = mpk_tensor.all_reduce %x of 2 : tensor<1x8xf32> to tensor<1x8xbf16>
  %g = mpk_tensor.all_gather %z dim 1 of 2 : tensor<1x8xbf16> to tensor<1x16xbf16>
  %s = mpk_tensor.reduce_scatter %x dim 1 of 4 : tensor<1x8xf32> to tensor<1x2xbf16>
  mpk_tensor.output "s", %s shard <dim 1 of 4> : tensor<1x2xbf16>
}

// -----
%x = "test.op"() : () -> tensor<1x8xbf16>
%y = mpk_tensor.all_reduce %x of 4 : tensor<1x8xbf16> to tensor<1x8xbf16>
// CHECK: all_reduce adds partial sums in f32, got tensor<1x8xbf16>

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_reduce %x of 1 : tensor<1x8xf32> to tensor<1x8xf32>
// CHECK: mpk_tensor.all_reduce has two shards or more, not 1

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_reduce %x of 2 : tensor<1x8xf32> to tensor<8xf32>
// CHECK: all_reduce of tensor<1x8xf32> does not give tensor<8xf32>

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_reduce %x of 2 with %x : tensor<1x8xf32> : tensor<1x8xf32> to tensor<1x8xf32>
// CHECK: extra operands need an epilogue

// -----
%x, %r = "test.op"() : () -> (tensor<1x8xf32>, tensor<4xf32>)
%y = mpk_tensor.all_reduce %x of 2 epilogue {
^bb0(%0 : f32, %1 : f32):
  mpk_tensor.yield %0 : f32
} with %r : tensor<4xf32> : tensor<1x8xf32> to tensor<1x8xf32>
// CHECK: tensor<4xf32> does not broadcast to tensor<1x8xf32>

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_reduce %x of 2 epilogue {
^bb0(%0 : bf16):
  mpk_tensor.yield %0 : bf16
} : tensor<1x8xf32> to tensor<1x8xbf16>
// CHECK: epilogue has arguments (bf16) when they should be (f32)

// -----
builtin.module attributes {mpk.mesh = {tp = 4}} {
  %x = "test.op"() : () -> tensor<1x8xf32>
  %y = mpk_tensor.all_gather %x dim 1 of 3 : tensor<1x8xf32> to tensor<1x24xf32>
}
// CHECK: 4 ranks do not share 3 shards of mpk_tensor.all_gather evenly

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_gather %x dim 2 of 2 : tensor<1x8xf32> to tensor<1x16xf32>
// CHECK: mpk_tensor.all_gather along dimension 2 of tensor<1x8xf32>

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.all_gather %x dim 0 of 2 : tensor<1x8xf32> to tensor<1x16xf32>
// CHECK: 2 shards of tensor<1x8xf32> along dimension 0 do not give tensor<1x16xf32>

// -----
%x = "test.op"() : () -> tensor<1x9xf32>
%y = mpk_tensor.reduce_scatter %x dim 1 of 2 : tensor<1x9xf32> to tensor<1x4xf32>
// CHECK: tensor<1x9xf32> does not divide into 2 along dimension 1

// -----
%x = "test.op"() : () -> tensor<1x8xf32>
%y = mpk_tensor.reduce_scatter %x dim 1 of 2 : tensor<1x8xf32> to tensor<1x8xbf16>
// CHECK: a shard of tensor<1x8xf32>, one of 2 along dimension 1, is not tensor<1x8xbf16>

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xf32>, tensor<4x8xf32>)
%y = mpk_tensor.linear %x, [%w] prologue {
^bb0(%0 : tensor<1x8xf32>):
  %1 = mpk_tensor.all_reduce %0 of 2 : tensor<1x8xf32> to tensor<1x8xf32>
  mpk_tensor.yield %1 : tensor<1x8xf32>
} : tensor<1x8xf32>, [tensor<4x8xf32>] to tensor<1x4xf32>
// CHECK: mpk_tensor.all_reduce stands in a step, not within mpk_tensor.linear

// -----
builtin.module attributes {mpk.mesh = {tp = 4}} {
  %w = mpk_tensor.weight "w" shard <dim 0 of 8> : tensor<16x8xbf16>
}
// CHECK: 4 ranks do not share 8 shards of mpk_tensor.weight evenly

// -----
%w = mpk_tensor.weight "w" shard <dim 2 of 4> : tensor<16x8xbf16>
// CHECK: a shape of [16, 8] has no dimension 2 to be a shard of

// -----
%w = mpk_tensor.weight "w" shard <dim 0 of 1> : tensor<16x8xbf16>
// CHECK: a shard is one of two or more along a dimension, got

// -----
%w = mpk_tensor.weight "w" shard <dim 0 pieces [8 of 4, 4 of 2]> : tensor<5x8xbf16>
// CHECK: a shape of [5, 8] is no #mpk_tensor.shard<dim 0 pieces [8 of 4, 4 of 2]>

// -----
%w = mpk_tensor.weight "w" shard <dim 0 pieces [8 of 4, 5 of 2]> : tensor<4x8xbf16>
// CHECK: 5 indices do not fall into 2 equal parts

// -----
%w = mpk_tensor.weight "w" shard <dim 0 pieces [8 of 1, 4 of 1]> : tensor<12x8xbf16>
// CHECK: a shard is one of two or more along a dimension, got

// -----
builtin.module attributes {mpk.mesh = {tp = 4}} {
  %w = mpk_tensor.weight "w" shard <dim 0 pieces [8 of 4, 6 of 3]> : tensor<4x8xbf16>
}
// CHECK: 4 ranks do not share 3 shards of mpk_tensor.weight evenly

// -----
%s = mpk_tensor.state "s" shard <dim 0 pieces [8 of 4, 4 of 2]> : tensor<4x8xbf16>
// CHECK: only a weight is a shard in pieces, not mpk_tensor.state

// -----
%w = mpk_tensor.weight "w" parts <"q" : 8, "k" : 8> shard <dim 0 of 2> : tensor<16x8xbf16>
// CHECK: of a joined weight, each part has its own shard

// -----
builtin.module attributes {mpk.mesh = {tp = 2, pp = 2}} {
  %w = mpk_tensor.weight "w" shard <dim 0 of 2> : tensor<16x8xbf16>
}
// CHECK: a mesh is {tp = N} with N >= 1, got

// -----
%v, %i = "test.op"() : () -> (tensor<1x6xf32>, tensor<1x6xi64>)
%b = mpk_tensor.argmax_merge %v, %i : tensor<1x6xf32>, tensor<1x6xi64> to tensor<1xi64> parts [4, 100]
// CHECK:      tensor<1x6xf32> are not the candidates of parts (4, 100)
