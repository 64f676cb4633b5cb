// RUN: mpk-opt %s --verify-diagnostics --split-input-file | filecheck %s

%x = "test.op"() : () -> tensor<8xbf16>
%y = mpk_tensor.reshape %x : tensor<8xbf16> to tensor<9xbf16>
// CHECK: reshape keeps the number of elements, got tensor<8xbf16> to tensor<9xbf16>

// -----
%x = "test.op"() : () -> tensor<2x3xbf16>
%y = mpk_tensor.transpose %x [0, 0] : tensor<2x3xbf16> to tensor<2x2xbf16>
// CHECK: (0, 0) is no permutation of 2 dimensions

// -----
%x = "test.op"() : () -> tensor<2x3xbf16>
%y = mpk_tensor.transpose %x [1, 0] : tensor<2x3xbf16> to tensor<2x3xbf16>
// CHECK: shape of the result is not the permuted shape of the source

// -----
%x = "test.op"() : () -> tensor<8xbf16>
%y = mpk_tensor.slice %x dim 1 start 0 : tensor<8xbf16> to tensor<4xbf16>
// CHECK: slice along dimension 1 of tensor<8xbf16>

// -----
%x = "test.op"() : () -> tensor<8xbf16>
%y = mpk_tensor.slice %x dim 0 start 2 step 2 : tensor<8xbf16> to tensor<4xbf16>
// CHECK: slice leaves its source: last index 8 of 8

// -----
%x = "test.op"() : () -> tensor<8x2xbf16>
%y = mpk_tensor.slice %x dim 0 start 0 : tensor<8x2xbf16> to tensor<4x1xbf16>
// CHECK: slice changes other dimensions than its own

// -----
%x = "test.op"() : () -> tensor<2x3xbf16>
%y = mpk_tensor.broadcast %x : tensor<2x3xbf16> to tensor<4x3xbf16>
// CHECK: tensor<2x3xbf16> does not broadcast to tensor<4x3xbf16>

// -----
%y = "mpk_tensor.concat"() <{dim = 0 : i64}> : () -> tensor<4xbf16>
// CHECK: concat needs at least one source

// -----
%x = "test.op"() : () -> tensor<4xbf16>
%y = mpk_tensor.concat %x dim 1 : (tensor<4xbf16>) -> tensor<4xbf16>
// CHECK: concat along dimension 1 of tensor<4xbf16>

// -----
%x = "test.op"() : () -> tensor<4x2xbf16>
%y = mpk_tensor.concat %x, %x dim 0 : (tensor<4x2xbf16>, tensor<4x2xbf16>) -> tensor<8x3xbf16>
// CHECK: concat changes other dimensions than its own

// -----
%x = "test.op"() : () -> tensor<4x2xbf16>
%y = mpk_tensor.concat %x, %x dim 0 : (tensor<4x2xbf16>, tensor<4x2xbf16>) -> tensor<9x2xbf16>
// CHECK: sizes of the sources do not add up to the result
