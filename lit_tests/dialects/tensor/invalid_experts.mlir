// RUN: mpk-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: topk of tensor<2x5xf32> does not give tensor<2x6xf32>
%x = "test.op"() : () -> tensor<2x5xf32>
%v, %e = mpk_tensor.topk raw %x : tensor<2x5xf32> to tensor<2x6xf32>, tensor<2x6xi64>

// -----

// CHECK: rows 4 to 7 leave tensor<5x6x8xf32>
%x, %w, %e = "test.op"() : () -> (tensor<1x8xf32>, tensor<5x6x8xf32>, tensor<2xi64>)
%y = mpk_tensor.expert_linear %x, [%w] rows [4] of %e : tensor<1x8xf32>, [tensor<5x6x8xf32>], tensor<2xi64> to tensor<2x3xf32>

// -----

// CHECK: 2 slots do not lead from tensor<1x8xf32> to tensor<3x6xf32>
%x, %w, %e = "test.op"() : () -> (tensor<1x8xf32>, tensor<5x6x8xf32>, tensor<2xi64>)
%y = mpk_tensor.expert_linear %x, [%w] rows [0] of %e : tensor<1x8xf32>, [tensor<5x6x8xf32>], tensor<2xi64> to tensor<3x6xf32>

// -----

// CHECK: expert_linear of tensor<1x8xf32> needs weights [experts, rows, 8], got tensor<5x6x7xf32>
%x, %w, %e = "test.op"() : () -> (tensor<1x8xf32>, tensor<5x6x7xf32>, tensor<2xi64>)
%y = mpk_tensor.expert_linear %x, [%w] rows [0] of %e : tensor<1x8xf32>, [tensor<5x6x7xf32>], tensor<2xi64> to tensor<2x6xf32>

// -----

// CHECK: tensor<3xf32> does not scale 2 slots
%x, %w, %e, %c = "test.op"() : () -> (tensor<2x8xf32>, tensor<5x6x8xf32>, tensor<2xi64>, tensor<3xf32>)
%y = mpk_tensor.expert_linear %x, [%w] rows [0] of %e scaled %c : tensor<3xf32> : tensor<2x8xf32>, [tensor<5x6x8xf32>], tensor<2xi64> to tensor<1x6xf32>
