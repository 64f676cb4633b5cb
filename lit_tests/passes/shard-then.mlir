// RUN: mpk-opt %s -p "mpk-shard{tp=2 machine=h200 exchange_us=0.0005},mpk-fuse-operators,mpk-widen-activations,mpk-join-linears,mpk-split-reductions{argmax_chunks=4}" | filecheck %s

// What follows a division: the residual is added, in fp32, where sums arrive; the norm behind it is the
// prologue of who reads it; queries and keys are joined, each part with its own shard. Of a row that
// ranks have parts of, they exchange the candidates for its largest: where they stand says whose they are.

// CHECK:         %[[P:.*]] = mpk_tensor.linear %{{.*}} to tensor<1x64xf32>
// CHECK-NEXT:    %[[R:.*]] = mpk_tensor.all_reduce %[[P]] of 2 epilogue {
// CHECK-NEXT:    ^bb0(%[[SUM:.*]]: f32, %[[Z:.*]]: f32):
// CHECK-NEXT:      %[[Y:.*]] = arith.addf %[[Z]], %[[SUM]] : f32
// CHECK-NEXT:      mpk_tensor.yield %[[Y]] : f32
// CHECK-NEXT:    } with %z : tensor<1x64xf32> : tensor<1x64xf32> to tensor<1x64xf32>
// CHECK-NEXT:    %[[W:.*]] = mpk_tensor.weight "q+k" parts <"q" : 16 shard <dim 0 of 2>, "k" : 8 shard <dim 0 of 2>> : tensor<24x64xbf16>
// CHECK-NEXT:    mpk_tensor.linear %[[R]], [%[[W]]] prologue {
// CHECK:           mpk_tensor.rms_norm
// CHECK:         %[[L:.*]] = mpk_tensor.linear %{{.*}} to tensor<1x80xbf16>
// CHECK:         mpk_tensor.output "l", %[[L]] shard <dim 1 of 2> : tensor<1x80xbf16>
// CHECK-NEXT:    %[[V:.*]], %[[I:.*]] = mpk_tensor.argmax_partial chunk 40 %[[L]] : (tensor<1x80xbf16>) -> (tensor<1x2xf32>, tensor<1x2xi64>)
// CHECK-NEXT:    %[[V1:.*]] = mpk_tensor.reshape %[[V]]
// CHECK-NEXT:    %[[I1:.*]] = mpk_tensor.reshape %[[I]]
// CHECK-NEXT:    %[[V2:.*]] = mpk_tensor.all_gather %[[V1]] dim 1 of 2 : tensor<1x1x2xf32> to tensor<1x2x2xf32>
// CHECK-NEXT:    %[[I2:.*]] = mpk_tensor.all_gather %[[I1]] dim 1 of 2 : tensor<1x1x2xi64> to tensor<1x2x2xi64>
// CHECK-NEXT:    %[[V3:.*]] = mpk_tensor.reshape %[[V2]] : tensor<1x2x2xf32> to tensor<1x4xf32>
// CHECK-NEXT:    %[[I3:.*]] = mpk_tensor.reshape %[[I2]] : tensor<1x2x2xi64> to tensor<1x4xi64>
// CHECK-NEXT:    mpk_tensor.argmax_merge %[[V3]], %[[I3]] : {{.*}} parts [2, 80]
// CHECK-NOT:     all_gather
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x64xbf16>
  %z = mpk_tensor.input "z" : tensor<1x64xf32>
  %g = mpk_tensor.weight "g" : tensor<64xbf16>
  %w0 = mpk_tensor.weight "up" : tensor<128x64xbf16>
  %w1 = mpk_tensor.weight "down" : tensor<64x128xbf16>
  %wq = mpk_tensor.weight "q" : tensor<32x64xbf16>
  %wk = mpk_tensor.weight "k" : tensor<16x64xbf16>
  %wl = mpk_tensor.weight "l" : tensor<160x32xbf16>
  %h = mpk_tensor.linear %x, [%w0] : tensor<1x64xbf16>, [tensor<128x64xbf16>] to tensor<1x128xbf16>
  %d = mpk_tensor.linear %h, [%w1] : tensor<1x128xbf16>, [tensor<64x128xbf16>] to tensor<1x64xbf16>
  %r = mpk_tensor.elementwise %z, %d {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } : (tensor<1x64xf32>, tensor<1x64xbf16>) -> tensor<1x64xbf16>
  %n = mpk_tensor.rms_norm %r, %g eps 1.0e-6 : (tensor<1x64xbf16>, tensor<64xbf16>) -> tensor<1x64xbf16>
  %q = mpk_tensor.linear %n, [%wq] : tensor<1x64xbf16>, [tensor<32x64xbf16>] to tensor<1x32xbf16>
  %k = mpk_tensor.linear %n, [%wk] : tensor<1x64xbf16>, [tensor<16x64xbf16>] to tensor<1x16xbf16>
  %qt = mpk_tensor.reshape %q : tensor<1x32xbf16> to tensor<2x16xbf16>
  %s = mpk_tensor.softmax %qt : tensor<2x16xbf16> to tensor<2x16xbf16>
  %kt = mpk_tensor.reshape %k : tensor<1x16xbf16> to tensor<2x8xbf16>
  %t = mpk_tensor.softmax %kt : tensor<2x8xbf16> to tensor<2x8xbf16>
  %i = mpk_tensor.input "i" : tensor<1x32xbf16>
  %l = mpk_tensor.linear %i, [%wl] : tensor<1x32xbf16>, [tensor<160x32xbf16>] to tensor<1x160xbf16>
  mpk_tensor.output "s", %s : tensor<2x16xbf16>
  mpk_tensor.output "t", %t : tensor<2x8xbf16>
  mpk_tensor.output "l", %l : tensor<1x160xbf16>
  %a = mpk_tensor.argmax %l : tensor<1x160xbf16> to tensor<1xi64>
  mpk_tensor.output "a", %a : tensor<1xi64>
  func.return
}
