// A step that forks in three and joins in two: every arrow reads another part of what came before.
//
//   s -> root -+-> left  -+-> join -+-> last -> s, y
//              +-> right -+         |
//              +-> middle ----------+
func.func @step() {
  %s = mpk_task.buffer state "s" : memref<1x16xf32>
  %r = mpk_task.buffer scratch "r" : memref<1x16xf32>
  %a = mpk_task.buffer scratch "a" : memref<1x16xf32>
  %b = mpk_task.buffer scratch "b" : memref<1x12xf32>
  %m = mpk_task.buffer scratch "m" : memref<1x16xf32>
  %j = mpk_task.buffer scratch "j" : memref<1x16xf32>
  %y = mpk_task.buffer output "y" : memref<1x16xf32>
  %w0 = mpk_task.buffer weight "w0" : memref<16x16xf32>
  %w1 = mpk_task.buffer weight "w1" : memref<16x16xf32>
  %w2 = mpk_task.buffer weight "w2" : memref<12x16xf32>
  %w3 = mpk_task.buffer weight "w3" : memref<16x8xf32>
  %w4 = mpk_task.buffer weight "w4" : memref<16x12xf32>
  %w5 = mpk_task.buffer weight "w5" : memref<16x16xf32>
  mpk_task.grid @root [2] reads(%s, %w0 : memref<1x16xf32>, memref<16x16xf32>)
    writes(%r : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<8x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<8x16xf32>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @left [4] reads(%r, %w1 : memref<1x16xf32>, memref<16x16xf32>)
    writes(%a : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<4x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<4x16xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @right [3] reads(%r, %w2 : memref<1x16xf32>, memref<12x16xf32>)
    writes(%b : memref<1x12xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 4)>, [1, 4]>] {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<4x16xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<4x16xf32>] to tensor<1x4xf32>
    mpk_task.yield %2 : tensor<1x4xf32>
  }
  mpk_task.grid @middle [2] reads(%r, %w3 : memref<1x16xf32>, memref<16x8xf32>)
    writes(%m : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x8xf32>, %1 : tensor<8x8xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x8xf32>, [tensor<8x8xf32>] to tensor<1x8xf32>
    mpk_task.yield %2 : tensor<1x8xf32>
  }
  mpk_task.grid @join [2] reads(%b, %w4, %a : memref<1x12xf32>, memref<16x12xf32>, memref<1x16xf32>)
    writes(%j : memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 12]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 12]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x12xf32>, %1 : tensor<8x12xf32>, %2 : tensor<1x8xf32>):
    %3 = mpk_tensor.linear %0, [%1] : tensor<1x12xf32>, [tensor<8x12xf32>] to tensor<1x8xf32>
    %4 = mpk_tensor.elementwise %3, %2 {
    ^bb1(%x0 : f32, %x1 : f32):
      %y0 = arith.addf %x0, %x1 : f32
      mpk_tensor.yield %y0 : f32
    } : (tensor<1x8xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    mpk_task.yield %4 : tensor<1x8xf32>
  }
  mpk_task.grid @last [2] reads(%j, %w5, %m, %s : memref<1x16xf32>, memref<16x16xf32>, memref<1x16xf32>, memref<1x16xf32>)
    writes(%s, %y : memref<1x16xf32>, memref<1x16xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 16]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 8, 0)>, [8, 16]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>,
      #mpk_task.region<affine_map<(d0) -> (0, d0 * 8)>, [1, 8]>] {
  ^bb0(%0 : tensor<1x16xf32>, %1 : tensor<8x16xf32>, %2 : tensor<1x8xf32>, %3 : tensor<1x8xf32>):
    %4 = mpk_tensor.linear %0, [%1] : tensor<1x16xf32>, [tensor<8x16xf32>] to tensor<1x8xf32>
    %5 = mpk_tensor.elementwise %4, %2, %3 {
    ^bb1(%x0 : f32, %x1 : f32, %x2 : f32):
      %y0 = arith.addf %x0, %x1 : f32
      %y1 = arith.addf %y0, %x2 : f32
      mpk_tensor.yield %y1 : f32
    } : (tensor<1x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>) -> tensor<1x8xf32>
    mpk_task.yield %5, %5 : tensor<1x8xf32>, tensor<1x8xf32>
  }
  func.return
}
