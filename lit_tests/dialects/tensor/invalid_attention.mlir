// RUN: mpk-opt %s --verify-diagnostics --split-input-file | filecheck %s

%q, %k = "test.op"() : () -> (tensor<1x4x2x8xbf16>, tensor<1x3x2x8xbf16>)
%y = mpk_tensor.sdpa %q, %k, %k scale 0.5
  : (tensor<1x4x2x8xbf16>, tensor<1x3x2x8xbf16>, tensor<1x3x2x8xbf16>) -> tensor<1x4x2x8xbf16>
// CHECK: attention of tensor<1x4x2x8xbf16>, tensor<1x3x2x8xbf16>, tensor<1x3x2x8xbf16>

// -----
%q = "test.op"() : () -> tensor<1x4x2x8xbf16>
%y = mpk_tensor.sdpa %q, %q, %q scale 0.5
  : (tensor<1x4x2x8xbf16>, tensor<1x4x2x8xbf16>, tensor<1x4x2x8xbf16>) -> tensor<1x2x4x8xbf16>
// CHECK: sdpa of tensor<1x4x2x8xbf16> does not give tensor<1x2x4x8xbf16>

// -----
%c, %n, %p = "test.op"() : () -> (tensor<1x2x16x8xbf16>, tensor<1x2x2x8xbf16>, tensor<1xi64>)
%y = mpk_tensor.cache_append %c, %n at %p
  : (tensor<1x2x16x8xbf16>, tensor<1x2x2x8xbf16>, tensor<1xi64>) -> tensor<1x2x16x8xbf16>
// CHECK: cannot append tensor<1x2x2x8xbf16> to tensor<1x2x16x8xbf16>

// -----
%c, %n, %p = "test.op"() : () -> (tensor<1x2x16x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>)
%y = mpk_tensor.cache_append %c, %n at %p
  : (tensor<1x2x16x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x17x8xbf16>
// CHECK: tensor<1x2x16x8xbf16> does not become tensor<1x2x17x8xbf16>

// -----
%x, %p, %f = "test.op"() : () -> (tensor<1x2x4x8xbf16>, tensor<1xi64>, tensor<4xf32>)
%y = mpk_tensor.rotary %x, %p, %f
  : (tensor<1x2x4x8xbf16>, tensor<1xi64>, tensor<4xf32>) -> tensor<1x2x4x8xbf16>
// CHECK: rotary of tensor<1x2x4x8xbf16> at tensor<1xi64>

// -----
%x, %p, %f = "test.op"() : () -> (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<5xf32>)
%y = mpk_tensor.rotary %x, %p, %f
  : (tensor<1x1x4x8xbf16>, tensor<1xi64>, tensor<5xf32>) -> tensor<1x1x4x8xbf16>
// CHECK: tensor<5xf32> turns more than 8 dimensions

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: mpk_tensor.attention operands have rank 4

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: mpk_tensor.attention keys and values have the same shapes

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x3x16x8xbf16>, tensor<1x3x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x3x16x8xbf16>, tensor<1x3x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x8xbf16>, tensor<1x3x16x8xbf16>, tensor<1x3x16x8xbf16>)
// CHECK: mpk_tensor.attention of tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x3x16x8xbf16>

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x3x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x3x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x3x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: 3 query heads are no multiple of 2 key heads

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x8x4xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: attention of tensor<1x1x4x8xbf16> gives its shape, not tensor<1x1x8x4xbf16>

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p q_prologue {
^bb0(%0 : tensor<1x1x4x8xf32>):
  mpk_tensor.yield %0 : tensor<1x1x4x8xf32>
} scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: q_prologue takes the operand and its extra operands, types unchanged

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
%y, %k1, %v1 = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p k_prologue {
^bb0(%0 : tensor<1x1x2x8xbf16>):
  mpk_tensor.yield
} scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x8xbf16>, tensor<1x2x16x8xbf16>, tensor<1x2x16x8xbf16>)
// CHECK: k_prologue must yield one tensor

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
%y, %s, %k1, %v1 = mpk_tensor.attention_split chunks 4 %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x3x8xf32>, tensor<1x1x4x4x2xf32>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>)
// CHECK: 4 chunks do not give tensor<1x1x4x3x8xf32>

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
%y, %s, %k1, %v1 = mpk_tensor.attention_split chunks 4 %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x4x8xf32>, tensor<1x1x4x4x3xf32>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>)
// CHECK: 4 chunks do not give tensor<1x1x4x4x3xf32>

// -----
%a, %s, %p = "test.op"() : () -> (tensor<1x1x4x3x8xf32>, tensor<1x1x4x2x2xf32>, tensor<1xi64>)
%y = mpk_tensor.attention_merge block 8 %a, %s at %p
  : (tensor<1x1x4x3x8xf32>, tensor<1x1x4x2x2xf32>, tensor<1xi64>) -> tensor<1x1x4x8xbf16>
// CHECK: cannot merge tensor<1x1x4x3x8xf32> and tensor<1x1x4x2x2xf32>

// -----
%a, %s, %p = "test.op"() : () -> (tensor<1x1x4x3x8xf32>, tensor<1x1x4x3x2xf32>, tensor<1xi64>)
%y = mpk_tensor.attention_merge block 8 %a, %s at %p
  : (tensor<1x1x4x3x8xf32>, tensor<1x1x4x3x2xf32>, tensor<1xi64>) -> tensor<1x1x4x3xbf16>
// CHECK: merge of tensor<1x1x4x3x8xf32> does not give tensor<1x1x4x3xbf16>

// -----
%q, %k, %v, %kc, %vc, %p = "test.op"()
  : () -> (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
%y, %s, %k1, %v1 = mpk_tensor.attention_split chunks 8 %q, %k, %v cache %kc, %vc at %p scale 0.5 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>, tensor<1xi64>)
  -> (tensor<1x1x4x4x8xf32>, tensor<1x1x4x4x2xf32>, tensor<1x2x2x4x2x8xbf16>, tensor<1x2x2x4x2x8xbf16>)
// CHECK: 8 chunks, 4 in tensor<1x2x2x4x2x8xbf16>
