// RUN: mpk-opt %s -p "mpk-widen-activations" --split-input-file | filecheck %s

// What is added later stays in fp32, and so does what the sum reads; the output keeps its type.

// CHECK-LABEL: func.func @residual
// CHECK:       %y = mpk_tensor.linear %x, [%w] {{.*}} to tensor<1x8xf32>
// CHECK-NEXT:  %z = mpk_tensor.linear %y, [%w] epilogue {
// CHECK-NEXT:  ^bb0(%[[A:.*]]: f32, %[[R:.*]]: f32):
// CHECK-NEXT:  %[[S:.*]] = arith.addf %[[A]], %[[R]] : f32
// CHECK-NEXT:  arith.truncf %[[S]] : f32 to bf16
// CHECK:       } with %y : tensor<1x8xf32> : tensor<1x8xf32>
// CHECK-SAME:  to tensor<1x8xbf16>
func.func @residual() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<8x8xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  %z = mpk_tensor.linear %y, [%w] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %y : tensor<1x8xbf16> : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  mpk_tensor.output "z", %z : tensor<1x8xbf16>
  func.return
}

// -----

// A prologue takes the wide value; arithmetic that was written in f16 still sees it rounded.

// CHECK-LABEL: func.func @prologue
// CHECK:       mpk_tensor.yield {{.*}} : f32
// CHECK-NEXT:  } : (tensor<1x8xf16>) -> tensor<1x8xf32>
// CHECK:       ^bb0(%{{.*}}: tensor<1x8xf32>, %{{.*}}: tensor<8xf16>):
// CHECK:       ^bb0(%{{.*}}: f32, %[[Y:.*]]: f32):
// CHECK-NEXT:  %[[R:.*]] = arith.truncf %[[Y]] : f32 to f16
// CHECK:       arith.addf %{{.*}}, %[[R]] : f16
func.func @prologue() {
  %x = mpk_tensor.input "x" : tensor<1x8xf16>
  %g = mpk_tensor.weight "g" : tensor<8xf16>
  %w = mpk_tensor.weight "w" : tensor<8x8xf16>
  %y = mpk_tensor.elementwise %x {
  ^bb0(%0 : f16):
    %1 = arith.negf %0 : f16
    mpk_tensor.yield %1 : f16
  } : (tensor<1x8xf16>) -> tensor<1x8xf16>
  %z = mpk_tensor.linear %y, [%w] prologue {
  ^bb0(%0 : tensor<1x8xf16>, %1 : tensor<8xf16>):
    %2 = mpk_tensor.rms_norm %0, %1 eps 1.0e-5 : (tensor<1x8xf16>, tensor<8xf16>) -> tensor<1x8xf32>
    mpk_tensor.yield %2 : tensor<1x8xf32>
  } with %g : tensor<8xf16> epilogue {
  ^bb0(%0 : f32, %1 : f16):
    %2 = arith.truncf %0 : f32 to f16
    %3 = arith.addf %2, %1 : f16
    mpk_tensor.yield %3 : f16
  } with %y : tensor<1x8xf16> : tensor<1x8xf16>, [tensor<8x8xf16>] to tensor<1x8xf16>
  mpk_tensor.output "z", %z : tensor<1x8xf16>
  func.return
}

// -----

// A value that leaves the program as a state keeps its type.

// CHECK-LABEL: func.func @leaves
// CHECK:       %y = mpk_tensor.elementwise %x
// CHECK-NOT:   f32
// CHECK:       mpk_tensor.store_state "y", %y
func.func @leaves() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %y = mpk_tensor.elementwise %x {
  ^bb0(%0 : bf16):
    %1 = arith.negf %0 : bf16
    mpk_tensor.yield %1 : bf16
  } : (tensor<1x8xbf16>) -> tensor<1x8xbf16>
  %z = mpk_tensor.elementwise %y {
  ^bb0(%0 : bf16):
    %1 = arith.negf %0 : bf16
    mpk_tensor.yield %1 : bf16
  } : (tensor<1x8xbf16>) -> tensor<1x8xbf16>
  mpk_tensor.store_state "y", %y : tensor<1x8xbf16>
  mpk_tensor.output "z", %z : tensor<1x8xbf16>
  func.return
}

// -----

// A residual stream is wide from the embedding on; one that only a state takes keeps the table's type.

// CHECK-LABEL: func.func @embedding
// CHECK:       %x = mpk_tensor.embedding %table, %id : (tensor<16x8xbf16>, tensor<1xi64>) -> tensor<1x8xf32>
// CHECK-NEXT:  %k = mpk_tensor.embedding %table, %id : (tensor<16x8xbf16>, tensor<1xi64>) -> tensor<1x8xbf16>
// CHECK:       ^bb0(%{{.*}}: f32, %[[X:.*]]: f32):
// CHECK-NEXT:  arith.addf %{{.*}}, %[[X]] : f32
// CHECK:       } with %x : tensor<1x8xf32> : tensor<1x8xf32>
func.func @embedding() {
  %id = mpk_tensor.input "id" : tensor<1xi64>
  %table = mpk_tensor.weight "table" : tensor<16x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<8x8xbf16>
  %x = mpk_tensor.embedding %table, %id : (tensor<16x8xbf16>, tensor<1xi64>) -> tensor<1x8xbf16>
  %k = mpk_tensor.embedding %table, %id : (tensor<16x8xbf16>, tensor<1xi64>) -> tensor<1x8xbf16>
  %z = mpk_tensor.linear %x, [%w] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %x : tensor<1x8xbf16> : tensor<1x8xbf16>, [tensor<8x8xbf16>] to tensor<1x8xbf16>
  mpk_tensor.store_state "k", %k : tensor<1x8xbf16>
  mpk_tensor.output "z", %z : tensor<1x8xbf16>
  func.return
}
