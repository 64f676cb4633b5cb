// RUN: mpk-opt %s --verify-diagnostics --split-input-file | filecheck %s

%x = "test.op"() : () -> tensor<1x8xbf16>
%y = "mpk_tensor.linear"(%x) <{operandSegmentSizes = array<i32: 1, 0, 0, 0>,
  regionSegmentSizes = array<i32: 0, 0>}> : (tensor<1x8xbf16>) -> tensor<1x4xbf16>
// CHECK: linear needs at least one weight

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x9xbf16>)
%y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<4x9xbf16>] to tensor<1x4xbf16>
// CHECK: linear from tensor<1x8xbf16> to tensor<1x4xbf16> needs weights of shape 4x8, got tensor<4x9xbf16>

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<2x4xbf16>
// CHECK: linear maps rows to rows, got tensor<1x8xbf16> to tensor<2x4xbf16>

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] with %x : tensor<1x8xbf16>
  : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: prologue operands without a prologue

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w, %w]
  : tensor<1x8xbf16>, [tensor<4x8xbf16>, tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: several weights or extra operands need an epilogue

// -----
%x, %w, %b = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>, tensor<3xf32>)
%y = mpk_tensor.linear %x, [%w] epilogue {
^bb0(%0 : f32, %1 : f32):
  mpk_tensor.yield %0 : f32
} with %b : tensor<3xf32> : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xf32>
// CHECK: tensor<3xf32> does not broadcast to tensor<1x4xf32>

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] epilogue {
^bb0(%0 : bf16):
  mpk_tensor.yield %0 : bf16
} : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: epilogue has arguments (bf16) when they should be (f32)

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] prologue {
^bb0(%0 : tensor<1x8xf32>):
  mpk_tensor.yield %0 : tensor<1x8xf32>
} : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: prologue takes the operand and its extra operands, types unchanged

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] prologue {
^bb0(%0 : tensor<1x8xbf16>):
  mpk_tensor.yield %0, %0 : tensor<1x8xbf16>, tensor<1x8xbf16>
} : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: prologue must yield one tensor

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<4x8xbf16>)
%y = mpk_tensor.linear %x, [%w] prologue {
^bb0(%0 : tensor<1x8xbf16>):
  %1 = mpk_tensor.reshape %0 : tensor<1x8xbf16> to tensor<8x1xbf16>
  mpk_tensor.yield %1 : tensor<8x1xbf16>
} : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
// CHECK: prologue must keep the shape (1, 8), yields tensor<8x1xbf16>

// -----
%a, %b = "test.op"() : () -> (tensor<2x3xbf16>, tensor<4x5xbf16>)
%y = mpk_tensor.matmul %a, %b : (tensor<2x3xbf16>, tensor<4x5xbf16>) -> tensor<2x5xbf16>
// CHECK: matmul of tensor<2x3xbf16> and tensor<4x5xbf16>

// -----
%a, %b = "test.op"() : () -> (tensor<2x4x3xbf16>, tensor<3x3x5xbf16>)
%y = mpk_tensor.matmul %a, %b : (tensor<2x4x3xbf16>, tensor<3x3x5xbf16>) -> tensor<2x4x5xbf16>
// CHECK: matmul does not give tensor<2x4x5xbf16>

// -----
%a, %i = "test.op"() : () -> (tensor<2x3x4xbf16>, tensor<1xi64>)
%y = mpk_tensor.embedding %a, %i : (tensor<2x3x4xbf16>, tensor<1xi64>) -> tensor<1x4xbf16>
// CHECK: embedding table has rank 2, got tensor<2x3x4xbf16>

// -----
%a, %i = "test.op"() : () -> (tensor<3x4xbf16>, tensor<2xi64>)
%y = mpk_tensor.embedding %a, %i : (tensor<3x4xbf16>, tensor<2xi64>) -> tensor<1x4xbf16>
// CHECK: embedding of rows (2,) does not give tensor<1x4xbf16>

// -----
%x = "test.op"() : () -> tensor<1x8xbf16>
%y = mpk_tensor.argmax %x : tensor<1x8xbf16> to tensor<1xi32>
// CHECK: argmax of tensor<1x8xbf16> does not give tensor<1xi32>

// -----
%x, %g = "test.op"() : () -> (tensor<1x8xbf16>, tensor<7xbf16>)
%y = mpk_tensor.rms_norm %x, %g eps 1.0e-05 : (tensor<1x8xbf16>, tensor<7xbf16>) -> tensor<1x8xbf16>
// CHECK: mpk_tensor.rms_norm of tensor<1x8xbf16> needs parameters of 8 elements, got tensor<7xbf16>

// -----
%x = "test.op"() : () -> tensor<1x8xbf16>
%y = mpk_tensor.softmax %x : tensor<1x8xbf16> to tensor<8xbf16>
// CHECK: mpk_tensor.softmax keeps the shape of tensor<1x8xbf16>, got tensor<8xbf16>

// -----
%x = "test.op"() : () -> tensor<1x8xbf16>
%y = mpk_tensor.reduce sum %x dims [2] : tensor<1x8xbf16> to tensor<1x1xbf16>
// CHECK: reduce along (2,) of tensor<1x8xbf16>

// -----
%x = "test.op"() : () -> tensor<1x8xbf16>
%y = mpk_tensor.reduce sum %x dims [1] : tensor<1x8xbf16> to tensor<1xbf16>
// CHECK: reduce keeps reduced dimensions with size 1, got tensor<1xbf16>

// -----
%t, %i = "test.op"() : () -> (tensor<4x8xf32>, tensor<2xi64>)
%y = mpk_tensor.embedding %t, %i : (tensor<4x8xf32>, tensor<2xi64>) -> tensor<2x8xbf16>
// CHECK: embedding from tensor<4x8xf32> does not give bf16

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<12x8xbf16>)
%y, %v, %i = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<12x8xbf16>] to tensor<1x12xbf16> best of 8 to tensor<1x1xf32>, tensor<1x1xi64>
// CHECK: tensor<1x12xbf16> is not cut in parts of 8 elements

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<12x8xbf16>)
%y, %v, %i = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<12x8xbf16>] to tensor<1x12xbf16> best of 4 to tensor<1x3xbf16>, tensor<1x3xi64>
// CHECK: the best of tensor<1x12xbf16> are tensor<1x3xf32>, tensor<1x3xi64>, got tensor<1x3xbf16>, tensor<1x3xi64>

// -----
%x, %w = "test.op"() : () -> (tensor<1x8xbf16>, tensor<12x8xbf16>)
%y, %v, %i = "mpk_tensor.linear"(%x, %w) <{operandSegmentSizes = array<i32: 1, 1, 0, 0>,
  regionSegmentSizes = array<i32: 0, 0>}>
  : (tensor<1x8xbf16>, tensor<12x8xbf16>) -> (tensor<1x12xbf16>, tensor<1x3xf32>, tensor<1x3xi64>)
// CHECK: the best of tensor<1x12xbf16> are not asked for, got tensor<1x3xf32>, tensor<1x3xi64>
