// RUN: mpk-opt %s -p "mpk-pipeline{target=h100}" | filecheck %s

// The same for an H100: every SM has a place in the schedule, and weights pass through the ring.

// CHECK:       builtin.module attributes {mpk.activations = {{.*}}, mpk.workers = 132 : i64}
// CHECK:       mpk_task.ring slots 13 bytes 16384
// CHECK:       mpk_task.grid @linear [4]
// CHECK-SAME:    stream
// CHECK:       mpk_task.grid @linear.1 [2]
// CHECK-SAME:    stream
// CHECK:       mpk_task.grid @linear.2 [5]
// CHECK-SAME:    stream
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
