// RUN: mpk-opt %s -p mpk-lay-out-flags --split-input-file | filecheck %s
// RUN: mpk-opt %s -p 'mpk-lay-out-flags{panels=false}' --split-input-file | filecheck %s --check-prefix=ROWS
// RUN: mpk-opt %s -p 'mpk-lay-out-flags{planes=false}' --split-input-file | filecheck %s --check-prefix=FLOATS

// Activations of 3 tokens and more that products over packed weights poll lie in panels: of 8 columns where some task
// writes all tokens of its columns, as do all of a type then, of 32 where each writes a token. What ends sums and what
// pointwise operators read may lie so, too; what only they read has no need to.

// CHECK-LABEL: func.func @products
// CHECK:         mpk_task.buffer scratch "x" flagged brief panels <8 of 64> planes : memref<8x1x64xf32>
// CHECK:         mpk_task.buffer scratch "heads" flagged brief panels <32 of 64> : memref<8x1x4x16xbf16>
// CHECK:         mpk_task.buffer scratch "y" flagged brief panels <8 of 64> planes : memref<8x1x64xf32>
// CHECK:         mpk_task.buffer scratch "z" flagged brief apart 16 : memref<8x64xf32>
// ROWS:          mpk_task.buffer scratch "x" flagged brief apart 16 : memref<8x1x64xf32>
// ROWS:          mpk_task.buffer scratch "heads" flagged brief apart 16 : memref<8x1x4x16xbf16>
// ROWS:          mpk_task.buffer scratch "y" flagged brief apart 16 : memref<8x1x64xf32>
// FLOATS:        mpk_task.buffer scratch "x" flagged brief panels <8 of 64> : memref<8x1x64xf32>
// FLOATS:        mpk_task.buffer scratch "heads" flagged brief panels <32 of 64> : memref<8x1x4x16xbf16>
// FLOATS:        mpk_task.buffer scratch "z" flagged brief apart 16 : memref<8x64xf32>
func.func @products() {
  %in = mpk_task.buffer input "in" : memref<8x1x64xf32>
  %in4 = mpk_task.buffer input "in4" : memref<8x1x4x16xf32>
  %w = mpk_task.buffer weight "w" : memref<64x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x1x64xf32>
  %heads = mpk_task.buffer scratch "heads" flagged : memref<8x1x4x16xbf16>
  %y = mpk_task.buffer scratch "y" flagged : memref<8x1x64xf32>
  %z = mpk_task.buffer scratch "z" flagged : memref<8x64xf32>
  %out = mpk_task.buffer output "out" : memref<8x64xf32>
  %rows = mpk_task.view %heads : memref<8x1x4x16xbf16> to memref<8x1x64xbf16>
  %ys = mpk_task.view %y : memref<8x1x64xf32> to memref<8x64xf32>
  mpk_task.grid @token [8] reads(%in : memref<8x1x64xf32>) writes(%x : memref<8x1x64xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (d0, 0, 0)>, [1, 1, 64]>, #mpk_task.region<affine_map<(d0) -> (d0, 0, 0)>, [1, 1, 64]>] {
  ^bb0(%0 : tensor<1x1x64xf32>):
    %1 = mpk_tensor.rms_norm %0 eps 1.000000e-05 : (tensor<1x1x64xf32>) -> tensor<1x1x64xf32>
    mpk_task.yield %1 : tensor<1x1x64xf32>
  }
  mpk_task.grid @head [8, 4] reads(%in4 : memref<8x1x4x16xf32>) writes(%heads : memref<8x1x4x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0, d1) -> (d0, 0, d1, 0)>, [1, 1, 1, 16]>, #mpk_task.region<affine_map<(d0, d1) -> (d0, 0, d1, 0)>, [1, 1, 1, 16]>] {
  ^bb0(%0 : tensor<1x1x1x16xf32>):
    %1 = mpk_tensor.softmax %0 : tensor<1x1x1x16xf32> to tensor<1x1x1x16xbf16>
    mpk_task.yield %1 : tensor<1x1x1x16xbf16>
  }
  mpk_task.grid @heads [4] reads(%rows, %w, %x : memref<8x1x64xbf16>, memref<64x64xbf16>, memref<8x1x64xf32>) writes(%y : memref<8x1x64xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0)>, [8, 1, 64]>, #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0, d0 * 16)>, [8, 1, 16]>, #mpk_task.region<affine_map<(d0) -> (0, 0, d0 * 16)>, [8, 1, 16]>] {
  ^bb0(%0 : tensor<8x1x64xbf16>, %1 : tensor<16x64xbf16>, %2 : tensor<8x1x16xf32>):
    %3 = mpk_tensor.linear %0, [%1] epilogue {
    ^bb1(%4 : f32, %5 : f32):
      %6 = arith.addf %4, %5 : f32
      mpk_tensor.yield %6 : f32
    } with %2 : tensor<8x1x16xf32> : tensor<8x1x64xbf16>, [tensor<16x64xbf16>] to tensor<8x1x16xf32>
    mpk_task.yield %3 : tensor<8x1x16xf32>
  }
  mpk_task.grid @norm [4] reads(%x, %w : memref<8x1x64xf32>, memref<64x64xbf16>) writes(%z : memref<8x64xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0)>, [8, 1, 64]>, #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x1x64xf32>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%3 : tensor<8x1x64xf32>):
      %4 = mpk_tensor.rms_norm %3 eps 1.000000e-05 : (tensor<8x1x64xf32>) -> tensor<8x1x64xf32>
      mpk_tensor.yield %4 : tensor<8x1x64xf32>
    } : tensor<8x1x64xf32>, [tensor<16x64xbf16>] to tensor<8x1x16xf32>
    %5 = mpk_tensor.reshape %2 : tensor<8x1x16xf32> to tensor<8x16xf32>
    mpk_task.yield %5 : tensor<8x16xf32>
  }
  mpk_task.grid @last [4] reads(%y, %w : memref<8x1x64xf32>, memref<64x64xbf16>) writes(%out : memref<8x64xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, 0)>, [8, 1, 64]>, #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x1x64xf32>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x1x64xf32>, [tensor<16x64xbf16>] to tensor<8x1x16xf32>
    %3 = mpk_tensor.reshape %2 : tensor<8x1x16xf32> to tensor<8x16xf32>
    mpk_task.yield %3 : tensor<8x16xf32>
  }
  mpk_task.grid @sum [4] reads(%ys, %z : memref<8x64xf32>, memref<8x64xf32>) writes(%out : memref<8x64xf32>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [8, 16]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [8, 16]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x16xf32>, %1 : tensor<8x16xf32>):
    %2 = mpk_tensor.elementwise %0, %1 {
    ^bb1(%3 : f32, %4 : f32):
      %5 = arith.addf %3, %4 : f32
      mpk_tensor.yield %5 : f32
    } : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
    mpk_task.yield %2 : tensor<8x16xf32>
  }
  func.return
}

// -----
// Panels have room for a multiple of 8 tokens.

// CHECK-LABEL: func.func @five
// CHECK:         mpk_task.buffer scratch "x" flagged brief panels <8 of 64> : memref<5x64xbf16>
func.func @five() {
  %in = mpk_task.buffer input "in" : memref<5x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<5x64xbf16>
  %out = mpk_task.buffer output "out" : memref<5x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<5x64xbf16>) writes(%x : memref<5x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [5, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [5, 64]>] {
  ^bb0(%0 : tensor<5x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<5x64xbf16>) -> tensor<5x64xbf16>
    mpk_task.yield %1 : tensor<5x64xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<5x64xbf16>, memref<16x64xbf16>) writes(%out : memref<5x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [5, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [5, 16]>] {
  ^bb0(%0 : tensor<5x64xbf16>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<5x64xbf16>, [tensor<16x64xbf16>] to tensor<5x16xbf16>
    mpk_task.yield %2 : tensor<5x16xbf16>
  }
  func.return
}

// -----
// Words of f16 are of 4 bytes with their tag.

// CHECK-LABEL: func.func @halves
// CHECK:         mpk_task.buffer scratch "x" flagged panels <8 of 64> : memref<8x64xf16>
func.func @halves() {
  %in = mpk_task.buffer input "in" : memref<8x64xf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x64xf16>
  %out = mpk_task.buffer output "out" : memref<8x16xf16>
  mpk_task.grid @copy [1] reads(%in : memref<8x64xf16>) writes(%x : memref<8x64xf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>] {
  ^bb0(%0 : tensor<8x64xf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : f16):
      mpk_tensor.yield %2 : f16
    } : (tensor<8x64xf16>) -> tensor<8x64xf16>
    mpk_task.yield %1 : tensor<8x64xf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<8x64xf16>, memref<16x64xbf16>) writes(%out : memref<8x16xf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x64xf16>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x64xf16>, [tensor<16x64xbf16>] to tensor<8x16xf16>
    mpk_task.yield %2 : tensor<8x16xf16>
  }
  func.return
}

// -----
// Few tokens come through shared memory.

// CHECK-LABEL: func.func @two
// CHECK:         mpk_task.buffer scratch "x" flagged : memref<2x64xbf16>
func.func @two() {
  %in = mpk_task.buffer input "in" : memref<2x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<2x64xbf16>
  %out = mpk_task.buffer output "out" : memref<2x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<2x64xbf16>) writes(%x : memref<2x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 64]>] {
  ^bb0(%0 : tensor<2x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<2x64xbf16>) -> tensor<2x64xbf16>
    mpk_task.yield %1 : tensor<2x64xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<2x64xbf16>, memref<16x64xbf16>) writes(%out : memref<2x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [2, 16]>] {
  ^bb0(%0 : tensor<2x64xbf16>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<2x64xbf16>, [tensor<16x64xbf16>] to tensor<2x16xbf16>
    mpk_task.yield %2 : tensor<2x16xbf16>
  }
  func.return
}

// -----
// No tensor core takes so many.

// CHECK-LABEL: func.func @seventeen
// CHECK:         mpk_task.buffer scratch "x" flagged brief : memref<17x64xbf16>
func.func @seventeen() {
  %in = mpk_task.buffer input "in" : memref<17x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<17x64xbf16>
  %out = mpk_task.buffer output "out" : memref<17x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<17x64xbf16>) writes(%x : memref<17x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [17, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [17, 64]>] {
  ^bb0(%0 : tensor<17x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<17x64xbf16>) -> tensor<17x64xbf16>
    mpk_task.yield %1 : tensor<17x64xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<17x64xbf16>, memref<16x64xbf16>) writes(%out : memref<17x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [17, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [17, 16]>] {
  ^bb0(%0 : tensor<17x64xbf16>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<17x64xbf16>, [tensor<16x64xbf16>] to tensor<17x16xbf16>
    mpk_task.yield %2 : tensor<17x16xbf16>
  }
  func.return
}

// -----
// Nor weights of f32.

// CHECK-LABEL: func.func @wide
// CHECK:         mpk_task.buffer scratch "x" flagged brief : memref<8x64xbf16>
func.func @wide() {
  %in = mpk_task.buffer input "in" : memref<8x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xf32>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x64xbf16>
  %out = mpk_task.buffer output "out" : memref<8x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<8x64xbf16>) writes(%x : memref<8x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>] {
  ^bb0(%0 : tensor<8x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<8x64xbf16>) -> tensor<8x64xbf16>
    mpk_task.yield %1 : tensor<8x64xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<8x64xbf16>, memref<16x64xf32>) writes(%out : memref<8x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x64xbf16>, %1 : tensor<16x64xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x64xbf16>, [tensor<16x64xf32>] to tensor<8x16xbf16>
    mpk_task.yield %2 : tensor<8x16xbf16>
  }
  func.return
}

// -----
// Nor columns that are no whole blocks.

// CHECK-LABEL: func.func @odd
// CHECK:         mpk_task.buffer scratch "x" flagged brief : memref<8x48xbf16>
func.func @odd() {
  %in = mpk_task.buffer input "in" : memref<8x48xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x48xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x48xbf16>
  %out = mpk_task.buffer output "out" : memref<8x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<8x48xbf16>) writes(%x : memref<8x48xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 48]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 48]>] {
  ^bb0(%0 : tensor<8x48xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<8x48xbf16>) -> tensor<8x48xbf16>
    mpk_task.yield %1 : tensor<8x48xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<8x48xbf16>, memref<16x48xbf16>) writes(%out : memref<8x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 48]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 48]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x48xbf16>, %1 : tensor<16x48xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x48xbf16>, [tensor<16x48xbf16>] to tensor<8x16xbf16>
    mpk_task.yield %2 : tensor<8x16xbf16>
  }
  func.return
}

// -----
// Elements of what is computed before the product are asked for singly.

// CHECK-LABEL: func.func @squares
// CHECK:         mpk_task.buffer scratch "x" flagged brief : memref<8x64xbf16>
func.func @squares() {
  %in = mpk_task.buffer input "in" : memref<8x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x64xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x64xbf16>
  %out = mpk_task.buffer output "out" : memref<8x16xbf16>
  mpk_task.grid @copy [1] reads(%in : memref<8x64xbf16>) writes(%x : memref<8x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>] {
  ^bb0(%0 : tensor<8x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<8x64xbf16>) -> tensor<8x64xbf16>
    mpk_task.yield %1 : tensor<8x64xbf16>
  }
  mpk_task.grid @product [1] reads(%x, %w : memref<8x64xbf16>, memref<16x64xbf16>) writes(%out : memref<8x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x64xbf16>, %1 : tensor<16x64xbf16>):
    %2 = mpk_tensor.linear %0, [%1] prologue {
    ^bb1(%3 : tensor<8x64xbf16>):
      %4 = mpk_tensor.elementwise %3 {
      ^bb2(%5 : bf16):
        %6 = arith.mulf %5, %5 : bf16
        mpk_tensor.yield %6 : bf16
      } : (tensor<8x64xbf16>) -> tensor<8x64xbf16>
      mpk_tensor.yield %4 : tensor<8x64xbf16>
    } : tensor<8x64xbf16>, [tensor<16x64xbf16>] to tensor<8x16xbf16>
    mpk_task.yield %2 : tensor<8x16xbf16>
  }
  func.return
}

// -----
// A part of each token is not polled whole.

// CHECK-LABEL: func.func @part
// CHECK:         mpk_task.buffer scratch "x" flagged brief : memref<8x64xbf16>
func.func @part() {
  %in = mpk_task.buffer input "in" : memref<8x64xbf16>
  %w = mpk_task.buffer weight "w" : memref<16x32xbf16>
  %x = mpk_task.buffer scratch "x" flagged : memref<8x64xbf16>
  %out = mpk_task.buffer output "out" : memref<8x16xbf16>
  %v = mpk_task.view %x : memref<8x64xbf16> to memref<8x32xbf16, strided<[64, 1]>>
  mpk_task.grid @copy [1] reads(%in : memref<8x64xbf16>) writes(%x : memref<8x64xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 64]>] {
  ^bb0(%0 : tensor<8x64xbf16>):
    %1 = mpk_tensor.elementwise %0 {
    ^bb1(%2 : bf16):
      mpk_tensor.yield %2 : bf16
    } : (tensor<8x64xbf16>) -> tensor<8x64xbf16>
    mpk_task.yield %1 : tensor<8x64xbf16>
  }
  mpk_task.grid @product [1] reads(%v, %w : memref<8x32xbf16, strided<[64, 1]>>, memref<16x32xbf16>) writes(%out : memref<8x16xbf16>)
      boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 32]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [16, 32]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [8, 16]>] {
  ^bb0(%0 : tensor<8x32xbf16>, %1 : tensor<16x32xbf16>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<8x32xbf16>, [tensor<16x32xbf16>] to tensor<8x16xbf16>
    mpk_task.yield %2 : tensor<8x16xbf16>
  }
  func.return
}
