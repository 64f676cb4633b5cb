// RUN: mpk-opt %s -p 'mpk-pipeline{target=h100}' --split-input-file | filecheck %s
// RUN: mpk-opt %s -p 'mpk-pipeline{target=h100}' --split-input-file --run-before-and-after=all -o /dev/null

// Memory with and without flags in turns: products of two activations cannot flag what they write.
// What a step writes last without flags is seen at its end, because who has read it signals that
// too; and @elementwise is over, for who writes over what it has read, when the heads' merged
// attention is, though each head has seen a part of what it flags.

// CHECK-LABEL: func.func @step
// CHECK: mpk_task.buffer scratch "activations.1" : memref<192xbf16>
// CHECK: mpk_task.grid @elementwise [
// CHECK-SAME: writes(%{{[0-9]+}} : memref<1x192xbf16>)
// CHECK: mpk_task.grid @matmul.1 [
// CHECK: mpk_task.grid @elementwise.1 [
// CHECK-SAME: signals [#mpk_event.edge<@end,
func.func @step() {
  %p = mpk_tensor.position : tensor<1xi64>
  %x = mpk_tensor.state "x" : tensor<1x64xbf16>
  %wqkv = mpk_tensor.weight "wqkv" : tensor<64x192xbf16>
  %bias = mpk_tensor.weight "bias" : tensor<192xbf16>
  %wo = mpk_tensor.weight "wo" : tensor<64x64xbf16>
  %kc = mpk_tensor.state "kc" : tensor<1x4x64x16xbf16>
  %vc = mpk_tensor.state "vc" : tensor<1x4x64x16xbf16>
  %g = mpk_tensor.weight "g" : tensor<64xbf16>
  %n = mpk_tensor.layer_norm %x, %g, %g eps 1.0e-5 : (tensor<1x64xbf16>, tensor<64xbf16>, tensor<64xbf16>) -> tensor<1x64xbf16>
  %0 = mpk_tensor.matmul %n, %wqkv : (tensor<1x64xbf16>, tensor<64x192xbf16>) -> tensor<1x192xbf16>
  %1 = mpk_tensor.elementwise %0, %bias {
  ^bb0(%a : bf16, %b : bf16):
    %2 = arith.addf %a, %b : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x192xbf16>, tensor<192xbf16>) -> tensor<1x192xbf16>
  %3 = mpk_tensor.reshape %1 : tensor<1x192xbf16> to tensor<1x1x12x16xbf16>
  %q = mpk_tensor.slice %3 dim 2 start 0 : tensor<1x1x12x16xbf16> to tensor<1x1x4x16xbf16>
  %k = mpk_tensor.slice %3 dim 2 start 4 : tensor<1x1x12x16xbf16> to tensor<1x1x4x16xbf16>
  %v = mpk_tensor.slice %3 dim 2 start 8 : tensor<1x1x12x16xbf16> to tensor<1x1x4x16xbf16>
  %y, %kr, %vr = mpk_tensor.attention %q, %k, %v cache %kc, %vc at %p scale 0.25 :
      (tensor<1x1x4x16xbf16>, tensor<1x1x4x16xbf16>, tensor<1x1x4x16xbf16>, tensor<1x4x64x16xbf16>, tensor<1x4x64x16xbf16>, tensor<1xi64>)
      -> (tensor<1x1x4x16xbf16>, tensor<1x4x64x16xbf16>, tensor<1x4x64x16xbf16>)
  mpk_tensor.store_state "kc", %kr : tensor<1x4x64x16xbf16>
  mpk_tensor.store_state "vc", %vr : tensor<1x4x64x16xbf16>
  %4 = mpk_tensor.reshape %y : tensor<1x1x4x16xbf16> to tensor<1x64xbf16>
  %5 = mpk_tensor.matmul %4, %wo : (tensor<1x64xbf16>, tensor<64x64xbf16>) -> tensor<1x64xbf16>
  %6 = mpk_tensor.elementwise %5 {
  ^bb0(%a : bf16):
    %7 = math.tanh %a : bf16
    mpk_tensor.yield %7 : bf16
  } : (tensor<1x64xbf16>) -> tensor<1x64xbf16>
  mpk_tensor.store_state "x", %6 : tensor<1x64xbf16>
  func.return
}

// -----

// @elementwise.1 is seen whole by @reduce, and in parts by those who look for its greatest element:
// by these @argmax_merge.1, which writes over what @elementwise has read, knows both to be over.

// CHECK-LABEL: func.func @parts
// CHECK: mpk_task.buffer scratch "activations.2" : memref<1xi64>
// CHECK: mpk_task.grid @argmax_merge.1 [1]
func.func @parts() {
  %x = mpk_tensor.state "x" : tensor<1x4xbf16>
  %m = mpk_tensor.argmax %x : tensor<1x4xbf16> to tensor<1xi64>
  %1 = mpk_tensor.reshape %m : tensor<1xi64> to tensor<1x1xi64>
  %i = mpk_tensor.iota : tensor<4xi64>
  %h = mpk_tensor.elementwise %1, %i {
  ^bb0(%a : i64, %b : i64):
    %2 = arith.cmpi eq, %a, %b : i64
    %3 = arith.uitofp %2 : i1 to f32
    mpk_tensor.yield %3 : f32
  } : (tensor<1x1xi64>, tensor<4xi64>) -> tensor<1x4xf32>
  %r = mpk_tensor.reduce max %h dims [1] : tensor<1x4xf32> to tensor<1x1xf32>
  %y = mpk_tensor.elementwise %h, %x, %r {
  ^bb0(%a : f32, %b : bf16, %c : f32):
    %4 = arith.extf %b : bf16 to f32
    %5 = arith.subf %4, %a : f32
    %6 = arith.subf %5, %c : f32
    %7 = arith.truncf %6 : f32 to bf16
    mpk_tensor.yield %7 : bf16
  } : (tensor<1x4xf32>, tensor<1x4xbf16>, tensor<1x1xf32>) -> tensor<1x4xbf16>
  %n = mpk_tensor.argmax %y : tensor<1x4xbf16> to tensor<1xi64>
  %s = mpk_tensor.reduce max %y dims [1] : tensor<1x4xbf16> to tensor<1x1xbf16>
  %k = mpk_tensor.elementwise %n {
  ^bb0(%a : i64):
    %8 = arith.addi %a, %a : i64
    mpk_tensor.yield %8 : i64
  } : (tensor<1xi64>) -> tensor<1xi64>
  mpk_tensor.output "k", %k : tensor<1xi64>
  mpk_tensor.output "s", %s : tensor<1x1xbf16>
  func.return
}

// -----

// Both argmaxes see @elementwise.1 in parts; who writes over what @elementwise has read knows of the
// first only.

// CHECK-LABEL: func.func @apart
// CHECK: mpk_task.buffer scratch "activations.2" : memref<1xi64>
// CHECK: mpk_task.grid @argmax_merge.1 [1]
func.func @apart() {
  %x = mpk_tensor.state "x" : tensor<1x4xbf16>
  %m = mpk_tensor.argmax %x : tensor<1x4xbf16> to tensor<1xi64>
  %1 = mpk_tensor.reshape %m : tensor<1xi64> to tensor<1x1xi64>
  %i = mpk_tensor.iota : tensor<4xi64>
  %h = mpk_tensor.elementwise %1, %i {
  ^bb0(%a : i64, %b : i64):
    %2 = arith.cmpi eq, %a, %b : i64
    %3 = arith.uitofp %2 : i1 to f32
    mpk_tensor.yield %3 : f32
  } : (tensor<1x1xi64>, tensor<4xi64>) -> tensor<1x4xf32>
  %r = mpk_tensor.reduce max %h dims [1] : tensor<1x4xf32> to tensor<1x1xf32>
  %y = mpk_tensor.elementwise %h, %x, %r {
  ^bb0(%a : f32, %b : bf16, %c : f32):
    %4 = arith.extf %b : bf16 to f32
    %5 = arith.subf %4, %a : f32
    %6 = arith.subf %5, %c : f32
    %7 = arith.truncf %6 : f32 to bf16
    mpk_tensor.yield %7 : bf16
  } : (tensor<1x4xf32>, tensor<1x4xbf16>, tensor<1x1xf32>) -> tensor<1x4xbf16>
  %n = mpk_tensor.argmax %y : tensor<1x4xbf16> to tensor<1xi64>
  %s = mpk_tensor.argmax %y : tensor<1x4xbf16> to tensor<1xi64>
  %k = mpk_tensor.elementwise %n {
  ^bb0(%a : i64):
    %8 = arith.addi %a, %a : i64
    mpk_tensor.yield %8 : i64
  } : (tensor<1xi64>) -> tensor<1xi64>
  mpk_tensor.output "k", %k : tensor<1xi64>
  mpk_tensor.output "s", %s : tensor<1xi64>
  func.return
}
