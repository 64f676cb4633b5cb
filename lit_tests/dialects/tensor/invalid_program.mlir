// RUN: mpk-opt %s --verify-diagnostics --split-input-file | filecheck %s

%p = mpk_tensor.position : tensor<1xi32>
// CHECK: position is tensor<Txi64>, got tensor<1xi32>

// -----
%i = mpk_tensor.iota : tensor<2x2xi64>
// CHECK: iota has rank 1, got tensor<2x2xi64>

// -----
%f = mpk_tensor.full 1.0 : f32 : tensor<2xbf16>
// CHECK: 1.000000e+00 : f32 everywhere does not give tensor<2xbf16>

// -----
%x = "test.op"() : () -> tensor<3xf32>
%y = mpk_tensor.elementwise %x, %x {
^bb0(%0 : f32, %1 : f32):
  mpk_tensor.yield %0 : f32
} : (tensor<3xf32>, tensor<3xf32>) -> tensor<2xf32>
// CHECK: operands of shapes {{.*}} do not broadcast to (2,)

// -----
%x = "test.op"() : () -> tensor<1x3xf32>
%y = mpk_tensor.elementwise %x {
^bb0(%0 : f32):
  mpk_tensor.yield %0 : f32
} : (tensor<1x3xf32>) -> tensor<3xf32>
// CHECK: operands of shapes {{.*}} do not broadcast to (3,)

// -----
%x = "test.op"() : () -> tensor<3xf32>
%y = mpk_tensor.elementwise %x {
^bb0(%0 : bf16):
  mpk_tensor.yield %0 : bf16
} : (tensor<3xf32>) -> tensor<3xbf16>
// CHECK: elementwise region has arguments (bf16) when they should be (f32)

// -----
%x = "test.op"() : () -> tensor<3xf32>
%y = mpk_tensor.elementwise %x {
^bb0(%0 : f32):
  mpk_tensor.yield %0 : f32
} : (tensor<3xf32>) -> tensor<3xbf16>
// CHECK: elementwise region must yield one bf16

// -----
%s, %p = "test.op"() : () -> (tensor<9xi32>, tensor<1xi64>)
%t = mpk_tensor.sequence_read %s at %p : (tensor<9xi32>, tensor<1xi64>) -> tensor<1x1xi64>
// CHECK: a token sequence is tensor<Nxi64> or tensor<BxNxi64>, got tensor<9xi32>

// -----
%s, %t, %p = "test.op"() : () -> (tensor<3x9xi64>, tensor<2x1xi64>, tensor<1xi64>)
%n = mpk_tensor.sequence_append %s, %t at %p : (tensor<3x9xi64>, tensor<2x1xi64>, tensor<1xi64>) -> tensor<3x9xi64>
// CHECK: tensor<2x1xi64> does not hold a token for each of tensor<3x9xi64>

// -----
%s, %p = "test.op"() : () -> (tensor<9xi64>, tensor<2xi64>)
%t = mpk_tensor.sequence_read %s at %p : (tensor<9xi64>, tensor<2xi64>) -> tensor<1x1xi64>
// CHECK: tensor<2xi64> does not give tensor<1x1xi64>

// -----
%s, %t, %p = "test.op"() : () -> (tensor<9xi64>, tensor<1xi64>, tensor<1x1xi64>)
%u = mpk_tensor.sequence_append %s, %t at %p
  : (tensor<9xi64>, tensor<1xi64>, tensor<1x1xi64>) -> tensor<9xi64>
// CHECK: a position is tensor<Nxi64>, got tensor<1x1xi64>

// -----
%s, %t, %p = "test.op"() : () -> (tensor<9xi64>, tensor<1xi64>, tensor<1xi64>)
%u = mpk_tensor.sequence_append %s, %t at %p
  : (tensor<9xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<8xi64>
// CHECK: tensor<9xi64> does not become tensor<8xi64>

// -----
%x = "test.op"() : () -> tensor<1x10xf32>
%v, %i = mpk_tensor.argmax_partial chunk 4 %x
  : (tensor<1x10xf32>) -> (tensor<1x2xf32>, tensor<1x2xi64>)
// CHECK: chunks of 4 of tensor<1x10xf32>

// -----
%v, %i = "test.op"() : () -> (tensor<1x2xf32>, tensor<1x3xi64>)
%n = mpk_tensor.argmax_merge %v, %i : tensor<1x2xf32>, tensor<1x3xi64> to tensor<1xi64>
// CHECK: cannot merge tensor<1x2xf32> and tensor<1x3xi64>

// -----
%v, %i = "test.op"() : () -> (tensor<1x2xf32>, tensor<1x2xi64>)
%n = mpk_tensor.argmax_merge %v, %i : tensor<1x2xf32>, tensor<1x2xi64> to tensor<2xi64>
// CHECK: merge of tensor<1x2xf32> does not give tensor<2xi64>

// -----
%v, %i, %s = "test.op"() : () -> (tensor<1x2xf32>, tensor<1x2xi64>, tensor<9xi64>)
%n = "mpk_tensor.argmax_merge"(%v, %i, %s) <{stop = array<i64>,
  operandSegmentSizes = array<i32: 1, 1, 1, 0>, resultSegmentSizes = array<i32: 1, 0>}>
  : (tensor<1x2xf32>, tensor<1x2xi64>, tensor<9xi64>) -> tensor<1xi64>
// CHECK: sequence, position and the sequence's result go together

// -----
%v, %i = "test.op"() : () -> (tensor<1x4xf32>, tensor<1x3xi64>)
%w, %j = mpk_tensor.argmax_join chunk 2 part 8 %v, %i : (tensor<1x4xf32>, tensor<1x3xi64>) -> (tensor<1x2xf32>, tensor<1x2xi64>)
// CHECK: cannot join tensor<1x4xf32> and tensor<1x3xi64>

// -----
%v, %i = "test.op"() : () -> (tensor<1x5xf32>, tensor<1x5xi64>)
%w, %j = mpk_tensor.argmax_join chunk 2 part 8 %v, %i : (tensor<1x5xf32>, tensor<1x5xi64>) -> (tensor<1x2xf32>, tensor<1x2xi64>)
// CHECK: chunks of 2 of tensor<1x5xf32> do not give tensor<1x2xf32> and tensor<1x2xi64>
