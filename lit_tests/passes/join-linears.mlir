// RUN: mpk-opt %s -p "mpk-join-linears" --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-join-linears{worker_bytes=0}" --split-input-file | filecheck %s --check-prefix OFF

// OFF-NOT: parts

// Products of one x with the same norm are one: its weight has the rows of all, its bias too, and their
// results are slices. What they have in common is in the name once.

// CHECK-LABEL: func.func @together
// CHECK:       %[[W:.*]] = mpk_tensor.weight "l.q+k.weight" parts <"l.q.weight" : 16, "l.k.weight" : 8> : tensor<24x8xbf16>
// CHECK-NEXT:  %[[B:.*]] = mpk_tensor.weight "l.q+k.bias" parts <"l.q.bias" : 16, "l.k.bias" : 8> : tensor<24xbf16>
// CHECK-NEXT:  %[[Y:.*]] = mpk_tensor.linear %x, [%[[W]]] prologue {
// CHECK:       rms_norm
// CHECK:       } with %g : tensor<8xbf16> epilogue {
// CHECK-NEXT:  ^bb0(%{{.*}}: f32, %{{.*}}: bf16):
// CHECK:       } with %[[B]] : tensor<24xbf16>
// CHECK-SAME:  to tensor<1x24xbf16>
// CHECK-NEXT:  %[[Q:.*]] = mpk_tensor.slice %[[Y]] dim 1 start 0 : tensor<1x24xbf16> to tensor<1x16xbf16>
// CHECK-NEXT:  %[[K:.*]] = mpk_tensor.slice %[[Y]] dim 1 start 16 : tensor<1x24xbf16> to tensor<1x8xbf16>
// CHECK-NOT:   mpk_tensor.linear
// CHECK:       mpk_tensor.reshape %[[Q]]
// CHECK:       mpk_tensor.concat %{{.*}}, %[[K]]
func.func @together() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %g = mpk_tensor.weight "g" : tensor<8xbf16>
  %wq = mpk_tensor.weight "l.q.weight" : tensor<16x8xbf16>
  %bq = mpk_tensor.weight "l.q.bias" : tensor<16xbf16>
  %q = mpk_tensor.linear %x, [%wq] prologue {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<8xbf16>):
    %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xf32>
    mpk_tensor.yield %2 : tensor<1x8xf32>
  } with %g : tensor<8xbf16> epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %bq : tensor<16xbf16> : tensor<1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x16xbf16>
  %wk = mpk_tensor.weight "l.k.weight" : tensor<8x8xbf16>
  %bk = mpk_tensor.weight "l.k.bias" : tensor<8xbf16>
  %k = mpk_tensor.linear %x, [%wk] prologue {
  ^bb0(%0 : tensor<1x8xbf16>, %1 : tensor<8xbf16>):
    %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-5 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xf32>
    mpk_tensor.yield %2 : tensor<1x8xf32>
  } with %g : tensor<8xbf16> epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %bk : tensor<8xbf16> : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %r = mpk_tensor.reshape %q : tensor<1x16xbf16> to tensor<2x8xbf16>
  %s = mpk_tensor.concat %r, %k dim 0 : (tensor<2x8xbf16>, tensor<1x8xbf16>) -> tensor<3x8xbf16>
  mpk_tensor.output "s", %s : tensor<3x8xbf16>
  func.return
}

// -----

// Another epsilon, another type of result and another epilogue are reasons to stay apart.

// CHECK-LABEL: func.func @apart
// CHECK-NOT:   parts
// CHECK:       func.return
func.func @apart() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w0 = mpk_tensor.weight "w0" : tensor<8x8xbf16>
  %w1 = mpk_tensor.weight "w1" : tensor<8x8xbf16>
  %w2 = mpk_tensor.weight "w2" : tensor<8x8xbf16>
  %w3 = mpk_tensor.weight "w3" : tensor<8x8xbf16>
  %w4 = mpk_tensor.weight "w4" : tensor<8x8xf32>
  %a = mpk_tensor.linear %x, [%w0] prologue {
  ^bb0(%0 : tensor<1x8xbf16>):
    %2 = mpk_tensor.rms_norm %0 eps 1.0e-5 : (tensor<1x8xbf16>) -> tensor<1x8xf32>
    mpk_tensor.yield %2 : tensor<1x8xf32>
  } : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %b = mpk_tensor.linear %x, [%w1] prologue {
  ^bb0(%0 : tensor<1x8xbf16>):
    %2 = mpk_tensor.rms_norm %0 eps 1.0e-6 : (tensor<1x8xbf16>) -> tensor<1x8xf32>
    mpk_tensor.yield %2 : tensor<1x8xf32>
  } : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %c = mpk_tensor.linear %x, [%w2] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xf32>
  %d = mpk_tensor.linear %x, [%w3] epilogue {
  ^bb0(%0 : f32):
    %1 = math.tanh %0 : f32
    mpk_tensor.yield %1 : f32
  } : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xf32>
  %e = mpk_tensor.linear %x, [%w4] : tensor<1x8xbf16>, [tensor<8x8xf32>] to tensor<1x8xf32>
  %ab = mpk_tensor.concat %a, %b dim 0 : (tensor<1x8xbf16>, tensor<1x8xbf16>) -> tensor<2x8xbf16>
  %cde = mpk_tensor.concat %c, %d, %e dim 0 : (tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>) -> tensor<3x8xf32>
  mpk_tensor.output "ab", %ab : tensor<2x8xbf16>
  mpk_tensor.output "cde", %cde : tensor<3x8xf32>
  func.return
}

// -----

// A linear stays alone if its result leaves the program, if a reader needs it dense (topk), if its weight
// has another user, under whatever value, if it has a residual, or rows that do not make whole tiles. None of
// them goes with the one that could.

// CHECK-LABEL: func.func @alone
// CHECK-NOT:   parts
// CHECK:       func.return
func.func @alone() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %z = mpk_tensor.input "z" : tensor<1x8xbf16>
  %w0 = mpk_tensor.weight "w0" : tensor<8x8xbf16>
  %w1 = mpk_tensor.weight "w1" : tensor<8x8xbf16>
  %w2 = mpk_tensor.weight "w2" : tensor<8x8xbf16>
  %w3 = mpk_tensor.weight "w3" : tensor<8x8xbf16>
  %w3.again = mpk_tensor.weight "w3" : tensor<8x8xbf16>
  %w4 = mpk_tensor.weight "w4" : tensor<4x8xbf16>
  %w5 = mpk_tensor.weight "w5" : tensor<4x8xbf16>
  %w6 = mpk_tensor.weight "w6" : tensor<8x8xbf16>
  %w7 = mpk_tensor.weight "w7" : tensor<8x8xbf16>
  %w8 = mpk_tensor.weight "w8" : tensor<8x8xbf16>
  %out = mpk_tensor.linear %x, [%w0] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %router = mpk_tensor.linear %x, [%w1] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %shared = mpk_tensor.linear %x, [%w2] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %other = mpk_tensor.linear %z, [%w2] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %tied = mpk_tensor.linear %x, [%w3] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %again = mpk_tensor.linear %z, [%w3.again] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %few = mpk_tensor.linear %x, [%w4] : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
  %too = mpk_tensor.linear %x, [%w5] : tensor<1x8xbf16>, [tensor<4x8xbf16>] to tensor<1x4xbf16>
  %sum = mpk_tensor.linear %x, [%w6] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.truncf %0 : f32 to bf16
    %3 = arith.addf %2, %1 : bf16
    mpk_tensor.yield %3 : bf16
  } with %z : tensor<1x8xbf16> : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %sum2 = mpk_tensor.linear %x, [%w7] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.truncf %0 : f32 to bf16
    %3 = arith.addf %2, %1 : bf16
    mpk_tensor.yield %3 : bf16
  } with %z : tensor<1x8xbf16> : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %one = mpk_tensor.linear %x, [%w8] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %v, %i = mpk_tensor.topk softmax %router : tensor<1x8xbf16> to tensor<1x2xf32>, tensor<1x2xi64>
  %all = mpk_tensor.concat %shared, %other, %tied, %again, %few, %too, %sum, %sum2, %one dim 1 : (tensor<1x8xbf16>, tensor<1x8xbf16>, tensor<1x8xbf16>, tensor<1x8xbf16>, tensor<1x4xbf16>, tensor<1x4xbf16>, tensor<1x8xbf16>, tensor<1x8xbf16>, tensor<1x8xbf16>) -> tensor<1x64xbf16>
  mpk_tensor.output "out", %out : tensor<1x8xbf16>
  mpk_tensor.output "all", %all : tensor<1x64xbf16>
  mpk_tensor.output "v", %v : tensor<1x2xf32>
  mpk_tensor.output "i", %i : tensor<1x2xi64>
  func.return
}
