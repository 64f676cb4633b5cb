// RUN: mpk-opt %s -p "mpk-partition-tiles{workers=4 max_rows=4}" --split-input-file | filecheck %s

// Ten features for four workers are four tasks of three rows, the last one's box cut at the end. All
// read x, each its rows of the weight and of the bias. A reshape is a view of the buffer.

// CHECK-LABEL: func.func @linear
// CHECK:       %[[Y:.*]] = mpk_task.buffer scratch "linear" : memref<1x10xbf16>
// CHECK:       mpk_task.grid @linear [4] reads(
// CHECK-SAME:  writes(%[[Y]] : memref<1x10xbf16>)
// CHECK-SAME:  boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> ((d0 * 3), 0)>, [3, 8]>, #mpk_task.region<affine_map<(d0) -> ((d0 * 3))>, [3]>, #mpk_task.region<affine_map<(d0) -> (0, (d0 * 3))>, [1, 3]>]
// CHECK:       mpk_tensor.linear {{.*}} epilogue {
// CHECK:       to tensor<1x3xbf16>
// CHECK:       %[[V:.*]] = mpk_task.view %[[Y]] : memref<1x10xbf16> to memref<2x5xbf16>
// CHECK:       %[[Z:.*]] = mpk_task.buffer output "z"
// CHECK-NEXT:  mpk_task.grid @softmax [2] reads(%[[V]] : memref<2x5xbf16>) writes(%[[Z]] : memref<2x5xbf16>)
func.func @linear() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<10x8xbf16>
  %b = mpk_tensor.weight "b" : tensor<10xbf16>
  %y = mpk_tensor.linear %x, [%w] epilogue {
  ^bb0(%0 : f32, %1 : bf16):
    %2 = arith.extf %1 : bf16 to f32
    %3 = arith.addf %0, %2 : f32
    %4 = arith.truncf %3 : f32 to bf16
    mpk_tensor.yield %4 : bf16
  } with %b : tensor<10xbf16> : tensor<1x8xbf16>, [tensor<10x8xbf16>] to tensor<1x10xbf16>
  %v = mpk_tensor.reshape %y : tensor<1x10xbf16> to tensor<2x5xbf16>
  %z = mpk_tensor.softmax %v : tensor<2x5xbf16> to tensor<2x5xbf16>
  mpk_tensor.output "z", %z : tensor<2x5xbf16>
  func.return
}

// -----

// A state is updated where it lies; nothing is left to store. The position is each task's own.

// CHECK-LABEL: func.func @cache
// CHECK:       %[[C:.*]] = mpk_task.buffer state "c"
// CHECK:       mpk_task.grid @cache_append [2] reads(%[[C]], {{.*}} writes(%[[C]] :
// CHECK:       mpk_tensor.position
// CHECK-NOT:   mpk_task.grid
// CHECK:       func.return
func.func @cache() {
  %n = mpk_tensor.input "n" : tensor<1x2x1x8xbf16>
  %c = mpk_tensor.state "c" : tensor<1x2x16x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %d = mpk_tensor.cache_append %c, %n at %p : (tensor<1x2x16x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x16x8xbf16>
  mpk_tensor.store_state "c", %d : tensor<1x2x16x8xbf16>
  func.return
}

// -----

// What the state held before is read afterwards: it is kept in a copy.

// CHECK-LABEL: func.func @old_value
// CHECK:       %[[C:.*]] = mpk_task.buffer state "c"
// CHECK:       %[[K:.*]] = mpk_task.buffer scratch "keep.c"
// CHECK-NEXT:  mpk_task.grid @keep.c [1] reads(%[[C]] : {{.*}}) writes(%[[K]] :
// CHECK:       mpk_task.grid @cache_append [2] reads(%[[C]], {{.*}} writes(%[[C]] :
// CHECK:       mpk_task.grid @store.old [1] reads(%[[K]] :
func.func @old_value() {
  %n = mpk_tensor.input "n" : tensor<1x2x1x8xbf16>
  %c = mpk_tensor.state "c" : tensor<1x2x16x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %d = mpk_tensor.cache_append %c, %n at %p : (tensor<1x2x16x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x16x8xbf16>
  mpk_tensor.output "old", %c : tensor<1x2x16x8xbf16>
  mpk_tensor.store_state "c", %d : tensor<1x2x16x8xbf16>
  func.return
}

// -----

// An updated value that is not what the state holds in the end must leave the state alone.

// CHECK-LABEL: func.func @not_stored
// CHECK:       %[[C:.*]] = mpk_task.buffer state "c"
// CHECK:       %[[D:.*]] = mpk_task.buffer scratch "copy.c"
// CHECK-NEXT:  mpk_task.grid @copy.c [1] reads(%[[C]] : {{.*}}) writes(%[[D]] :
// CHECK:       mpk_task.grid @cache_append [2] reads(%[[D]], {{.*}} writes(%[[D]] :
// CHECK:       mpk_task.grid @store.d [1] reads(%[[D]] :
func.func @not_stored() {
  %n = mpk_tensor.input "n" : tensor<1x2x1x8xbf16>
  %c = mpk_tensor.state "c" : tensor<1x2x16x8xbf16>
  %p = mpk_tensor.position : tensor<1xi64>
  %d = mpk_tensor.cache_append %c, %n at %p : (tensor<1x2x16x8xbf16>, tensor<1x2x1x8xbf16>, tensor<1xi64>) -> tensor<1x2x16x8xbf16>
  mpk_tensor.output "d", %d : tensor<1x2x16x8xbf16>
  func.return
}

// -----

// Two states that change places need room for one.

// CHECK-LABEL: func.func @swap
// CHECK:       %[[A:.*]] = mpk_task.buffer state "a" donated : memref
// CHECK-NEXT:  %[[B:.*]] = mpk_task.buffer state "b" donated : memref
// CHECK:       mpk_task.grid @keep.a [1] reads(%[[A]] : {{.*}}) writes(%[[K:.*]] : memref
// CHECK:       mpk_task.grid @store.a [1] reads(%[[B]] : {{.*}}) writes(%[[A]] : memref
// CHECK:       mpk_task.grid @store.b [1] reads(%[[K]] : {{.*}}) writes(%[[B]] : memref
func.func @swap() {
  %a = mpk_tensor.state "a" : tensor<4xf32>
  %b = mpk_tensor.state "b" : tensor<4xf32>
  mpk_tensor.store_state "a", %b : tensor<4xf32>
  mpk_tensor.store_state "b", %a : tensor<4xf32>
  func.return
}

// -----

// An operator writes straight to the first output of its value; others are copies.

// CHECK-LABEL: func.func @outputs
// CHECK:       %[[X:.*]] = mpk_task.buffer input "x"
// CHECK:       %[[Y:.*]] = mpk_task.buffer output "first"
// CHECK-NEXT:  mpk_task.grid @elementwise [1] reads(%[[X]] : {{.*}}) writes(%[[Y]] : memref
// CHECK:       mpk_task.grid @store.second [1] reads(%[[Y]] :
// CHECK:       mpk_task.grid @store.as_it_came [1] reads(%[[X]] :
func.func @outputs() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %y = mpk_tensor.elementwise %x {
  ^bb0(%0 : f32):
    %1 = arith.negf %0 : f32
    mpk_tensor.yield %1 : f32
  } : (tensor<1x8xf32>) -> tensor<1x8xf32>
  mpk_tensor.output "first", %y : tensor<1x8xf32>
  mpk_tensor.output "second", %y : tensor<1x8xf32>
  mpk_tensor.output "as_it_came", %x : tensor<1x8xf32>
  func.return
}

// -----

// Slices, transposes and broadcasts are views, with strides that count elements of the buffer. A
// product reads whole rows, so its operand is copied; what no strides can say is copied, too.

// CHECK-LABEL: func.func @views
// CHECK:         %[[X:.*]] = mpk_task.buffer input "x" : memref<4x6xf32>
// CHECK:         %[[S:.*]] = mpk_task.view %[[X]] : memref<4x6xf32> to memref<4x3xf32, strided<[6, 2], offset: 1>>
// CHECK:         %[[T:.*]] = mpk_task.view %[[S]] : {{.*}} to memref<3x4xf32, strided<[2, 6], offset: 1>>
// CHECK:         mpk_task.grid @softmax [3] reads(%[[T]] :
// CHECK:         %[[C:.*]] = mpk_task.buffer scratch "copy.x" : memref<3x4xf32>
// CHECK:         mpk_task.grid @copy.x [1] reads(%[[T]] : {{.*}}) writes(%[[C]] :
// CHECK:         mpk_task.grid @linear [{{[0-9]+}}] reads(%[[C]], %{{.*}} : memref<3x4xf32>, memref<5x4xf32>)
// CHECK:         mpk_task.grid @reshape [1] reads(%[[S]] :
func.func @views() {
  %x = mpk_tensor.input "x" : tensor<4x6xf32>
  %w = mpk_tensor.weight "w" : tensor<5x4xf32>
  %s = mpk_tensor.slice %x dim 1 start 1 step 2 : tensor<4x6xf32> to tensor<4x3xf32>
  %t = mpk_tensor.transpose %s [1, 0] : tensor<4x3xf32> to tensor<3x4xf32>
  %a = mpk_tensor.softmax %t : tensor<3x4xf32> to tensor<3x4xf32>
  %b = mpk_tensor.linear %t, [%w] : tensor<3x4xf32>, [tensor<5x4xf32>] to tensor<3x5xf32>
  %r = mpk_tensor.reshape %s : tensor<4x3xf32> to tensor<2x6xf32>
  mpk_tensor.output "a", %a : tensor<3x4xf32>
  mpk_tensor.output "b", %b : tensor<3x5xf32>
  mpk_tensor.output "r", %r : tensor<2x6xf32>
  func.return
}
