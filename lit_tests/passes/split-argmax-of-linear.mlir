// RUN: mpk-opt %s -p "mpk-split-reductions{argmax_chunks=3 argmax_best_of=16}" --split-input-file | filecheck %s
// RUN: mpk-opt %s -p "mpk-split-reductions{argmax_chunks=3 argmax_best_of=16 argmax_at_once=10}" --split-input-file | filecheck %s --check-prefix=AT-ONCE

// The linear keeps the best of 16 features each: seven, joined by three tasks; what is merged counts in
// the whole row.

// CHECK-LABEL: func.func @joined
// CHECK:       %[[Y:.*]], %[[V:.*]], %[[I:.*]] = mpk_tensor.linear %x, [%w] epilogue {
// CHECK:       } : tensor<1x8xbf16>, [tensor<112x8xbf16>] to tensor<1x112xf32> best of 16 to tensor<1x7xf32>, tensor<1x7xi64>
// CHECK-NEXT:  mpk_tensor.output "y", %[[Y]]
// CHECK-NEXT:  %[[V2:.*]], %[[I2:.*]] = mpk_tensor.argmax_join chunk 3 part 16 %[[V]], %[[I]] : (tensor<1x7xf32>, tensor<1x7xi64>) -> (tensor<1x3xf32>, tensor<1x3xi64>)
// CHECK-NEXT:  mpk_tensor.argmax_merge %[[V2]], %[[I2]] : tensor<1x3xf32>, tensor<1x3xi64> to tensor<1xi64>
// CHECK-NOT:   parts
func.func @joined() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<112x8xbf16>
  %y = mpk_tensor.linear %x, [%w] epilogue {
  ^bb0(%0 : f32):
    %1 = math.tanh %0 : f32
    mpk_tensor.yield %1 : f32
  } : tensor<1x8xbf16>, [tensor<112x8xbf16>] to tensor<1x112xf32>
  mpk_tensor.output "y", %y : tensor<1x112xf32>
  %i = mpk_tensor.argmax %y : tensor<1x112xf32> to tensor<1xi64>
  mpk_tensor.output "i", %i : tensor<1xi64>
  func.return
}

// -----

// As few as three are merged at once; who else asks for the best gets the same.

// CHECK-LABEL: func.func @few
// CHECK:       %{{.*}}, %[[V:.*]], %[[I:.*]] = mpk_tensor.linear {{.*}} best of 16
// CHECK-NEXT:  mpk_tensor.argmax_merge %[[V]], %[[I]] : {{.*}} parts [1, 16]
// CHECK-NEXT:  mpk_tensor.argmax_merge %[[V]], %[[I]] : {{.*}} parts [1, 16]
func.func @few() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<48x8xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<48x8xbf16>] to tensor<1x48xbf16>
  %i = mpk_tensor.argmax %y : tensor<1x48xbf16> to tensor<1xi64>
  %j = mpk_tensor.argmax %y : tensor<1x48xbf16> to tensor<1xi64>
  mpk_tensor.output "i", %i : tensor<1xi64>
  mpk_tensor.output "j", %j : tensor<1xi64>
  func.return
}

// -----

// Of a row of another length, or that no linear makes, all is read again.

// CHECK-LABEL: func.func @not_kept
// CHECK:       mpk_tensor.linear
// CHECK-NOT:   best
// CHECK:       mpk_tensor.argmax_partial chunk 40 %y
// CHECK:       mpk_tensor.argmax_partial chunk 3 %x
func.func @not_kept() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<120x8xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<120x8xbf16>] to tensor<1x120xbf16>
  %i = mpk_tensor.argmax %y : tensor<1x120xbf16> to tensor<1xi64>
  %j = mpk_tensor.argmax %x : tensor<1x8xbf16> to tensor<1xi64>
  mpk_tensor.output "i", %i : tensor<1xi64>
  mpk_tensor.output "j", %j : tensor<1xi64>
  func.return
}

// -----

// Ranks gather what they have joined, or, where that is little, what their linears keep.

// CHECK-LABEL: func.func @gathered
// CHECK:       mpk_tensor.linear {{.*}} best of 16 to tensor<1x7xf32>, tensor<1x7xi64>
// CHECK-NEXT:  %[[V:.*]], %{{.*}} = mpk_tensor.argmax_join chunk 4 part 16
// CHECK:       mpk_tensor.reshape %[[V]]
// CHECK:       mpk_tensor.argmax_merge {{.*}} parts [2, 112]
// CHECK:       mpk_tensor.linear {{.*}} best of 16 to tensor<1x2xf32>, tensor<1x2xi64>
// CHECK-NOT:   argmax_join
// CHECK:       mpk_tensor.argmax_merge {{.*}} : tensor<1x4xf32>, tensor<1x4xi64> to tensor<1xi64> parts [1, 16]
func.func @gathered() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<112x8xbf16>
  %u = mpk_tensor.weight "u" : tensor<32x8xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x8xbf16>, [tensor<112x8xbf16>] to tensor<1x112xbf16>
  %all = mpk_tensor.all_gather %y dim 1 of 2 : tensor<1x112xbf16> to tensor<1x224xbf16>
  %i = mpk_tensor.argmax %all : tensor<1x224xbf16> to tensor<1xi64>
  mpk_tensor.output "i", %i : tensor<1xi64>
  %z = mpk_tensor.linear %x, [%u] : tensor<1x8xbf16>, [tensor<32x8xbf16>] to tensor<1x32xbf16>
  %both = mpk_tensor.all_gather %z dim 1 of 2 : tensor<1x32xbf16> to tensor<1x64xbf16>
  %j = mpk_tensor.argmax %both : tensor<1x64xbf16> to tensor<1xi64>
  mpk_tensor.output "j", %j : tensor<1xi64>
  func.return
}

// -----

// Two rows of five are ten, which one task may choose among, and three rows are not.

// AT-ONCE-LABEL: func.func @at_once
// AT-ONCE:       mpk_tensor.linear {{.*}} best of 16 to tensor<2x5xf32>
// AT-ONCE-NEXT:  mpk_tensor.argmax_merge {{.*}} parts [1, 16]
// AT-ONCE:       mpk_tensor.linear {{.*}} best of 16 to tensor<3x5xf32>
// AT-ONCE-NEXT:  mpk_tensor.argmax_join chunk 2 part 16
func.func @at_once() {
  %x = mpk_tensor.input "x" : tensor<2x8xbf16>
  %z = mpk_tensor.input "z" : tensor<3x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<80x8xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<2x8xbf16>, [tensor<80x8xbf16>] to tensor<2x80xbf16>
  %i = mpk_tensor.argmax %y : tensor<2x80xbf16> to tensor<2xi64>
  %v = mpk_tensor.linear %z, [%w] : tensor<3x8xbf16>, [tensor<80x8xbf16>] to tensor<3x80xbf16>
  %j = mpk_tensor.argmax %v : tensor<3x80xbf16> to tensor<3xi64>
  mpk_tensor.output "i", %i : tensor<2xi64>
  mpk_tensor.output "j", %j : tensor<3xi64>
  func.return
}
