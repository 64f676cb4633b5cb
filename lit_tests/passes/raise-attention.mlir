// RUN: mpk-opt %s -p mpk-raise --split-input-file | filecheck %s

// Rows up to the position: what attention over a cache shows. The mask's ops are gone.

// CHECK-LABEL: func.func @causal
// CHECK-NOT:     mpk_tensor.iota
// CHECK:         %{{\w+}}, [[K:%\w+]], [[V:%\w+]] = mpk_tensor.attention {{.*}} scale 5.000000e-01 : (tensor<1x1x4x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x1x2x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1xi64>)
// CHECK:         mpk_tensor.store_state "k", [[K]]
// CHECK-NEXT:    mpk_tensor.store_state "v", [[V]]
func.func @causal() {
  %p = mpk_tensor.position : tensor<1xi64>
  %q = mpk_tensor.input "q" : tensor<1x4x1x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x2x1x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x2x1x8xbf16>
  %kc = mpk_tensor.state "k" : tensor<1x2x32x8xbf16>
  %vc = mpk_tensor.state "v" : tensor<1x2x32x8xbf16>
  %rows = mpk_tensor.iota : tensor<32xi64>
  %column = mpk_tensor.reshape %p : tensor<1xi64> to tensor<1x1xi64>
  %mask = mpk_tensor.elementwise %rows, %column {
  ^bb0(%j: i64, %i: i64):
    %seen = arith.cmpi sle, %j, %i : i64
    mpk_tensor.yield %seen : i1
  } : (tensor<32xi64>, tensor<1x1xi64>) -> tensor<1x32xi1>
  %k1 = mpk_tensor.cache_append %kc, %k at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %v1 = mpk_tensor.cache_append %vc, %v at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %y = mpk_tensor.sdpa %q, %k1, %v1 mask %mask scale 0.5 : (tensor<1x4x1x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x32xi1>) -> tensor<1x4x1x8xbf16>
  mpk_tensor.store_state "k", %k1 : tensor<1x2x32x8xbf16>
  mpk_tensor.store_state "v", %v1 : tensor<1x2x32x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x4x1x8xbf16>
  func.return
}

// -----

// j > i - 10 as well, written the other way round: a window of ten rows.

// CHECK-LABEL: func.func @window
// CHECK-NOT:     mpk_tensor.iota
// CHECK:         mpk_tensor.attention {{.*}} scale 5.000000e-01 window 10 :
func.func @window() {
  %p = mpk_tensor.position : tensor<1xi64>
  %q = mpk_tensor.input "q" : tensor<1x4x1x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x2x1x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x2x1x8xbf16>
  %kc = mpk_tensor.state "k" : tensor<1x2x32x8xbf16>
  %vc = mpk_tensor.state "v" : tensor<1x2x32x8xbf16>
  %rows = mpk_tensor.iota : tensor<32xi64>
  %column = mpk_tensor.reshape %p : tensor<1xi64> to tensor<1x1xi64>
  %mask = mpk_tensor.elementwise %rows, %column {
  ^bb0(%j: i64, %i: i64):
    %below = arith.cmpi sge, %i, %j : i64
    %ten = arith.constant 10 : i64
    %end = arith.addi %j, %ten : i64
    %near = arith.cmpi slt, %i, %end : i64
    %seen = arith.andi %below, %near : i1
    mpk_tensor.yield %seen : i1
  } : (tensor<32xi64>, tensor<1x1xi64>) -> tensor<1x32xi1>
  %k1 = mpk_tensor.cache_append %kc, %k at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %v1 = mpk_tensor.cache_append %vc, %v at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %y = mpk_tensor.sdpa %q, %k1, %v1 mask %mask scale 0.5 : (tensor<1x4x1x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x32xi1>) -> tensor<1x4x1x8xbf16>
  mpk_tensor.store_state "k", %k1 : tensor<1x2x32x8xbf16>
  mpk_tensor.store_state "v", %v1 : tensor<1x2x32x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x4x1x8xbf16>
  func.return
}

// -----

// A window as long as the cache hides nothing.

// CHECK-LABEL: func.func @wide_window
// CHECK:         mpk_tensor.attention {{.*}} scale 5.000000e-01 : (
func.func @wide_window() {
  %p = mpk_tensor.position : tensor<1xi64>
  %q = mpk_tensor.input "q" : tensor<1x4x1x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x2x1x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x2x1x8xbf16>
  %kc = mpk_tensor.state "k" : tensor<1x2x32x8xbf16>
  %vc = mpk_tensor.state "v" : tensor<1x2x32x8xbf16>
  %rows = mpk_tensor.iota : tensor<32xi64>
  %column = mpk_tensor.reshape %p : tensor<1xi64> to tensor<1x1xi64>
  %mask = mpk_tensor.elementwise %rows, %column {
  ^bb0(%j: i64, %i: i64):
    %below = arith.cmpi sle, %j, %i : i64
    %width = arith.constant 32 : i64
    %start = arith.subi %i, %width : i64
    %near = arith.cmpi sgt, %j, %start : i64
    %seen = arith.andi %below, %near : i1
    mpk_tensor.yield %seen : i1
  } : (tensor<32xi64>, tensor<1x1xi64>) -> tensor<1x32xi1>
  %k1 = mpk_tensor.cache_append %kc, %k at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %v1 = mpk_tensor.cache_append %vc, %v at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %y = mpk_tensor.sdpa %q, %k1, %v1 mask %mask scale 0.5 : (tensor<1x4x1x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x32xi1>) -> tensor<1x4x1x8xbf16>
  mpk_tensor.store_state "k", %k1 : tensor<1x2x32x8xbf16>
  mpk_tensor.store_state "v", %v1 : tensor<1x2x32x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x4x1x8xbf16>
  func.return
}

// -----

// One row too few: not the attention that the operator means. Everything stays as it was.

// CHECK-LABEL: func.func @strictly_below
// CHECK-NOT:     mpk_tensor.attention
// CHECK:         mpk_tensor.sdpa
func.func @strictly_below() {
  %p = mpk_tensor.position : tensor<1xi64>
  %q = mpk_tensor.input "q" : tensor<1x4x1x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x2x1x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x2x1x8xbf16>
  %kc = mpk_tensor.state "k" : tensor<1x2x32x8xbf16>
  %vc = mpk_tensor.state "v" : tensor<1x2x32x8xbf16>
  %rows = mpk_tensor.iota : tensor<32xi64>
  %column = mpk_tensor.reshape %p : tensor<1xi64> to tensor<1x1xi64>
  %mask = mpk_tensor.elementwise %rows, %column {
  ^bb0(%j: i64, %i: i64):
    %seen = arith.cmpi slt, %j, %i : i64
    mpk_tensor.yield %seen : i1
  } : (tensor<32xi64>, tensor<1x1xi64>) -> tensor<1x32xi1>
  %k1 = mpk_tensor.cache_append %kc, %k at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %v1 = mpk_tensor.cache_append %vc, %v at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %y = mpk_tensor.sdpa %q, %k1, %v1 mask %mask scale 0.5 : (tensor<1x4x1x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x32xi1>) -> tensor<1x4x1x8xbf16>
  mpk_tensor.store_state "k", %k1 : tensor<1x2x32x8xbf16>
  mpk_tensor.store_state "v", %v1 : tensor<1x2x32x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x4x1x8xbf16>
  func.return
}

// -----

// A condition of which nothing is known.

// CHECK-LABEL: func.func @unknown
// CHECK-NOT:     mpk_tensor.attention
// CHECK:         mpk_tensor.sdpa
func.func @unknown() {
  %p = mpk_tensor.position : tensor<1xi64>
  %q = mpk_tensor.input "q" : tensor<1x4x1x8xbf16>
  %k = mpk_tensor.input "k" : tensor<1x2x1x8xbf16>
  %v = mpk_tensor.input "v" : tensor<1x2x1x8xbf16>
  %kc = mpk_tensor.state "k" : tensor<1x2x32x8xbf16>
  %vc = mpk_tensor.state "v" : tensor<1x2x32x8xbf16>
  %rows = mpk_tensor.iota : tensor<32xi64>
  %column = mpk_tensor.reshape %p : tensor<1xi64> to tensor<1x1xi64>
  %mask = mpk_tensor.elementwise %rows, %column {
  ^bb0(%j: i64, %i: i64):
    %product = arith.muli %j, %j : i64
    %seen = arith.cmpi sle, %product, %i : i64
    mpk_tensor.yield %seen : i1
  } : (tensor<32xi64>, tensor<1x1xi64>) -> tensor<1x32xi1>
  %k1 = mpk_tensor.cache_append %kc, %k at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %v1 = mpk_tensor.cache_append %vc, %v at %p : (tensor<1x2x32x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x32x8xbf16>
  %y = mpk_tensor.sdpa %q, %k1, %v1 mask %mask scale 0.5 : (tensor<1x4x1x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x2x32x8xbf16>, tensor<1x32xi1>) -> tensor<1x4x1x8xbf16>
  mpk_tensor.store_state "k", %k1 : tensor<1x2x32x8xbf16>
  mpk_tensor.store_state "v", %v1 : tensor<1x2x32x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x4x1x8xbf16>
  func.return
}
