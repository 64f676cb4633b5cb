// RUN: mpk-opt %s -p "mpk-pipeline{target=cpu workers=2}" | filecheck %s
// RUN: mpk-opt %s -p "mpk-pipeline{target=cpu workers=2}" | mpk-opt -f mlir -p mpk-verify-schedule | filecheck %s

// A whole step of a small model for two threads: norm and activation are in the first product, the
// residual is in the second; the chosen token goes into the sequence that the step began with. The
// result is text that parses, and is proved safe again.

// CHECK:       builtin.module attributes {mpk.activations = {{.*}}, mpk.workers = 2 : i64}
// CHECK-DAG:   %[[TOKENS:.*]] = mpk_task.buffer state "tokens" initial -1
// CHECK-DAG:   %[[LOGITS:.*]] = mpk_task.buffer output "logits"
// CHECK-DAG:   mpk_event.tensor @end counters 1 arrivals [1]
// CHECK-NOT:   mpk_task.ring
// CHECK:       mpk_task.grid @embedding [1]
// CHECK-SAME:    waits [#mpk_event.edge<@end, {{.*}}, lag 1>]
// CHECK-SAME:    workers
// CHECK:       mpk_task.grid @linear [2]
// CHECK:         mpk_tensor.linear {{.*}} prologue {
// CHECK:           mpk_tensor.rms_norm
// CHECK:         } with {{.*}} epilogue {
// CHECK:           math.tanh
// CHECK:       mpk_task.grid @linear.1 [2]
// CHECK:           arith.addf
// CHECK:       mpk_task.grid @linear.2 [2] {{.*}} writes(%[[LOGITS]] :
// CHECK:       mpk_task.grid @argmax_partial [8] reads(%[[LOGITS]] :
// CHECK:       mpk_task.grid @argmax_merge [1]
// CHECK-SAME:    writes(%{{.*}}, %[[TOKENS]] :
// CHECK-SAME:    signals [#mpk_event.edge<@end,
func.func @step() {
  %p = mpk_tensor.position : tensor<1xi64>
  %tokens = mpk_tensor.state "tokens" initial -1 : tensor<65xi64>
  %embed = mpk_tensor.weight "embed" : tensor<40x16xbf16>
  %norm = mpk_tensor.weight "norm" : tensor<16xbf16>
  %up = mpk_tensor.weight "up" : tensor<32x16xbf16>
  %down = mpk_tensor.weight "down" : tensor<16x32xbf16>
  %id = mpk_tensor.sequence_read %tokens at %p : (tensor<65xi64>, tensor<1xi64>) -> tensor<1x1xi64>
  %x = mpk_tensor.embedding %embed, %id : (tensor<40x16xbf16>, tensor<1x1xi64>) -> tensor<1x1x16xbf16>
  %n = mpk_tensor.rms_norm %x, %norm eps 1.0e-5 : (tensor<1x1x16xbf16>, tensor<16xbf16>) -> tensor<1x1x16xbf16>
  %u = mpk_tensor.linear %n, [%up] : tensor<1x1x16xbf16>, [tensor<32x16xbf16>] to tensor<1x1x32xbf16>
  %t = mpk_tensor.elementwise %u {
  ^bb0(%0 : bf16):
    %1 = arith.extf %0 : bf16 to f32
    %2 = math.tanh %1 : f32
    %3 = arith.truncf %2 : f32 to bf16
    mpk_tensor.yield %3 : bf16
  } : (tensor<1x1x32xbf16>) -> tensor<1x1x32xbf16>
  %d = mpk_tensor.linear %t, [%down] : tensor<1x1x32xbf16>, [tensor<16x32xbf16>] to tensor<1x1x16xbf16>
  %r = mpk_tensor.elementwise %x, %d {
  ^bb0(%0 : bf16, %1 : bf16):
    %2 = arith.addf %0, %1 : bf16
    mpk_tensor.yield %2 : bf16
  } : (tensor<1x1x16xbf16>, tensor<1x1x16xbf16>) -> tensor<1x1x16xbf16>
  %l = mpk_tensor.linear %r, [%embed] : tensor<1x1x16xbf16>, [tensor<40x16xbf16>] to tensor<1x1x40xbf16>
  %next = mpk_tensor.argmax %l : tensor<1x1x40xbf16> to tensor<1x1xi64>
  %longer = mpk_tensor.sequence_append %tokens, %next at %p : (tensor<65xi64>, tensor<1x1xi64>, tensor<1xi64>) -> tensor<65xi64>
  mpk_tensor.store_state "tokens", %longer : tensor<65xi64>
  mpk_tensor.output "logits", %l : tensor<1x1x40xbf16>
  func.return
}
