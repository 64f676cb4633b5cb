// RUN: mpk-opt %s -p mpk-raise --split-input-file | filecheck %s

// A router, the chosen experts' gated first half and the weighted sum of their second.

// CHECK-LABEL: func.func @step
// CHECK:       %[[LOGITS:.*]] = mpk_tensor.linear
// CHECK:       %[[P:.*]], %[[E:.*]] = mpk_tensor.topk softmax_of_chosen %[[LOGITS]]
// CHECK:       mpk_tensor.expert_linear %{{.*}}, [%[[W:.*]], %[[W]]] rows [0, 2] of %{{.*}} epilogue
// CHECK:       tensor<1x4xbf16>, [tensor<6x4x4xbf16>, tensor<6x4x4xbf16>], tensor<3xi64> to tensor<3x2xbf16>
// CHECK:       mpk_tensor.expert_linear %{{.*}}, [%{{.*}}] rows [0] of %{{.*}} scaled %{{.*}} : tensor<3xbf16> : tensor<3x2xbf16>, [tensor<6x4x2xbf16>], tensor<3xi64> to tensor<1x1x4xbf16>
// CHECK-NOT:   mpk_tensor.embedding
// CHECK-NOT:   mpk_tensor.softmax
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x4xbf16>
  %router = mpk_tensor.weight "router" : tensor<6x4xbf16>
  %gate_up = mpk_tensor.weight "gate_up" : tensor<6x4x4xbf16>
  %down = mpk_tensor.weight "down" : tensor<6x4x2xbf16>
  %logits = mpk_tensor.linear %x, [%router] : tensor<1x4xbf16>, [tensor<6x4xbf16>] to tensor<1x6xbf16>
  %all = mpk_tensor.softmax %logits : tensor<1x6xbf16> to tensor<1x6xbf16>
  %p, %e = mpk_tensor.topk raw %all : tensor<1x6xbf16> to tensor<1x3xbf16>, tensor<1x3xi64>
  %sum = mpk_tensor.reduce sum %p dims [1] : tensor<1x3xbf16> to tensor<1x1xbf16>
  %share = mpk_tensor.elementwise %p, %sum {
  ^bb0(%a : bf16, %b : bf16):
    %q = arith.divf %a, %b : bf16
    mpk_tensor.yield %q : bf16
  } : (tensor<1x3xbf16>, tensor<1x1xbf16>) -> tensor<1x3xbf16>
  %chosen = mpk_tensor.reshape %e : tensor<1x3xi64> to tensor<3xi64>
  %table = mpk_tensor.reshape %gate_up : tensor<6x4x4xbf16> to tensor<6x16xbf16>
  %rows = mpk_tensor.embedding %table, %chosen : (tensor<6x16xbf16>, tensor<3xi64>) -> tensor<3x16xbf16>
  %w1 = mpk_tensor.reshape %rows : tensor<3x16xbf16> to tensor<3x4x4xbf16>
  %wide = mpk_tensor.broadcast %x : tensor<1x4xbf16> to tensor<3x4xbf16>
  %x1 = mpk_tensor.reshape %wide : tensor<3x4xbf16> to tensor<3x4x1xbf16>
  %y1 = mpk_tensor.matmul %w1, %x1 : (tensor<3x4x4xbf16>, tensor<3x4x1xbf16>) -> tensor<3x4x1xbf16>
  %h = mpk_tensor.reshape %y1 : tensor<3x4x1xbf16> to tensor<3x4xbf16>
  %g = mpk_tensor.slice %h dim 1 start 0 : tensor<3x4xbf16> to tensor<3x2xbf16>
  %u = mpk_tensor.slice %h dim 1 start 2 : tensor<3x4xbf16> to tensor<3x2xbf16>
  %m = mpk_tensor.elementwise %g, %u {
  ^bb0(%a : bf16, %b : bf16):
    %q = arith.mulf %a, %b : bf16
    mpk_tensor.yield %q : bf16
  } : (tensor<3x2xbf16>, tensor<3x2xbf16>) -> tensor<3x2xbf16>
  %table2 = mpk_tensor.reshape %down : tensor<6x4x2xbf16> to tensor<6x8xbf16>
  %rows2 = mpk_tensor.embedding %table2, %chosen : (tensor<6x8xbf16>, tensor<3xi64>) -> tensor<3x8xbf16>
  %w2 = mpk_tensor.reshape %rows2 : tensor<3x8xbf16> to tensor<3x4x2xbf16>
  %x2 = mpk_tensor.reshape %m : tensor<3x2xbf16> to tensor<3x2x1xbf16>
  %y2 = mpk_tensor.matmul %w2, %x2 : (tensor<3x4x2xbf16>, tensor<3x2x1xbf16>) -> tensor<3x4x1xbf16>
  %o = mpk_tensor.reshape %y2 : tensor<3x4x1xbf16> to tensor<3x4xbf16>
  %s = mpk_tensor.reshape %share : tensor<1x3xbf16> to tensor<3x1xbf16>
  %weighted = mpk_tensor.elementwise %o, %s {
  ^bb0(%a : bf16, %b : bf16):
    %q = arith.mulf %a, %b : bf16
    mpk_tensor.yield %q : bf16
  } : (tensor<3x4xbf16>, tensor<3x1xbf16>) -> tensor<3x4xbf16>
  %each = mpk_tensor.reshape %weighted : tensor<3x4xbf16> to tensor<1x3x4xbf16>
  %total = mpk_tensor.reduce sum %each dims [1] : tensor<1x3x4xbf16> to tensor<1x1x4xbf16>
  %y = mpk_tensor.reshape %total : tensor<1x1x4xbf16> to tensor<1x4xbf16>
  mpk_tensor.output "y", %y : tensor<1x4xbf16>
  func.return
}

// -----

// The softmax of the chosen alone is the same choice; a softmax whose values others read stays as it is.

// CHECK-LABEL: func.func @step
// CHECK:       mpk_tensor.topk softmax_of_chosen %{{.*}} : tensor<2x6xf32> to tensor<2x3xf32>
// CHECK-NOT:   mpk_tensor.softmax
// CHECK:       mpk_tensor.topk softmax %{{.*}} : tensor<2x6xf32> to tensor<2x2xf32>
// CHECK:       mpk_tensor.reduce sum
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<2x6xf32>
  %v, %e = mpk_tensor.topk raw %x : tensor<2x6xf32> to tensor<2x3xf32>, tensor<2x3xi64>
  %p = mpk_tensor.softmax %v : tensor<2x3xf32> to tensor<2x3xf32>
  mpk_tensor.output "p", %p : tensor<2x3xf32>
  mpk_tensor.output "e", %e : tensor<2x3xi64>
  %all = mpk_tensor.softmax %x : tensor<2x6xf32> to tensor<2x6xf32>
  %w, %f = mpk_tensor.topk raw %all : tensor<2x6xf32> to tensor<2x2xf32>, tensor<2x2xi64>
  %sum = mpk_tensor.reduce sum %w dims [1] : tensor<2x2xf32> to tensor<2x1xf32>
  mpk_tensor.output "w", %w : tensor<2x2xf32>
  mpk_tensor.output "f", %f : tensor<2x2xi64>
  mpk_tensor.output "sum", %sum : tensor<2x1xf32>
  func.return
}
