// RUN: mpk-opt %s | filecheck %s
// RUN: ROUNDTRIP
// RUN: sed 's/1x32xf32/1x24xf32/g' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix PARTS
// RUN: sed 's/%all = mpk_task.scatter %buffer dim 1/%all = mpk_task.scatter %buffer dim 2/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix DIM
// RUN: sed 's/"sums" exchange/"sums"/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix BUFFER
// RUN: sed 's/%flat = .*/%mine = mpk_task.mine %buffer : memref<4x1x8xf32> to memref<1x8xf32>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix TWICE
// RUN: sed 's/%flat = .*/%flat = mpk_task.scatter %buffer dim 1 : memref<4x1x8xf32> to memref<1x16xf32>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix TWICE
// RUN: sed 's/reads(%row :/reads(%all :/;s/reads(%all : memref<1x8xf32, strided<.8, 1., offset: 16>>/reads(%all : memref<1x32xf32>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix READ
// RUN: sed 's/1x8xf32, strided<.8, 1., offset: 16>/1x8xf32, strided<[8, 1], offset: 12>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix OVER
// RUN: sed 's/= mpk_task.view %buffer/= mpk_task.view %all/;s/view %all : memref<4x1x8xf32>/view %all : memref<1x32xf32>/' %s | not mpk-opt -f mlir 2>&1 | filecheck %s --check-prefix VIEW

// Each of four ranks gets 8 columns of what every rank writes; of the second buffer two of them the
// same half, of four rows two.

// CHECK:      %[[SUMS:.*]] = mpk_task.buffer scratch "sums" exchange flagged : memref<4x1x8xf32>
// CHECK-NEXT: mpk_task.scatter %[[SUMS]] dim 1 : memref<4x1x8xf32> to memref<1x32xf32>
// CHECK:      mpk_task.scatter %{{.*}} dim 0 : memref<4x2x8xbf16> to memref<4x8xbf16>

// PARTS:  rows of memref<4x1x8xf32> are no parts of memref<1x24xf32> along dimension 1, of which 4 ranks have equally many
// DIM:    scatter along dimension 2 of a row of memref<4x1x8xf32>
// BUFFER: what is scattered goes into an exchange buffer
// TWICE:  "sums" is written in two ways, of which one scatters
// READ:   grid @read reads through mpk_task.scatter, which is written only
// OVER:   grid @read reads memref<1x8xf32, strided<[8, 1], offset: 12>> of "sums", of which a dimension goes on behind the end of a rank's part
// VIEW:   a view is of a buffer, of a rank's row or of another view
module attributes {mpk.mesh = {tp = 4}} {
  func.func @step() {
    %buffer = mpk_task.buffer scratch "sums" exchange flagged : memref<4x1x8xf32>
    %all = mpk_task.scatter %buffer dim 1 : memref<4x1x8xf32> to memref<1x32xf32>
    %flat = mpk_task.view %buffer : memref<4x1x8xf32> to memref<4x8xf32>
    %halves = mpk_task.buffer scratch "halves" exchange : memref<4x2x8xbf16>
    %rows = mpk_task.scatter %halves dim 0 : memref<4x2x8xbf16> to memref<4x8xbf16>
    %row = mpk_task.view %buffer : memref<4x1x8xf32> to memref<1x8xf32, strided<[8, 1], offset: 16>>
    %y = mpk_task.buffer output "y" : memref<1x8xf32>
    mpk_task.grid @send [2] writes(%all : memref<1x32xf32>) boxes [
        #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [1, 16]>] {
      %0 = mpk_tensor.full 1.0 : f32 : tensor<1x16xf32>
      mpk_task.yield %0 : tensor<1x16xf32>
    }
    mpk_task.grid @read [1] reads(%row : memref<1x8xf32, strided<[8, 1], offset: 16>>) writes(%y : memref<1x8xf32>) boxes [
        #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 8]>] {
    ^bb0(%0 : tensor<1x8xf32>):
      mpk_task.yield %0 : tensor<1x8xf32>
    }
    func.return
  }
}
