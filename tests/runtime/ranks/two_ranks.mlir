// Each rank has half of the rows of w; both halves times x meet in an exchange buffer and are added.
module attributes {mpk.mesh = {tp = 2 : i64}, mpk.workers = 2} {
  func.func @step() {
    %x = mpk_task.buffer input "x" : memref<1x32xf32>
    %w = mpk_task.buffer weight "w" shard <dim 0 of 2> : memref<32x32xf32>
    %parts = mpk_task.buffer scratch "parts" exchange : memref<2x1x32xf32>
    %own = mpk_task.mine %parts : memref<2x1x32xf32> to memref<1x32xf32>
    %z = mpk_task.buffer output "z" : memref<1x1x32xf32>
    %half = mpk_task.buffer output "half" shard <dim 1 of 2> : memref<1x32xf32>
    mpk_event.tensor @there counters 2 arrivals [2] handoff peer
    mpk_event.tensor @read counters 1 arrivals [4] handoff peer
    mpk_task.grid @product [2] reads(%x, %w : memref<1x32xf32>, memref<32x32xf32>) writes(%own : memref<1x32xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (d0 * 16, 0)>, [16, 32]>, #mpk_task.region<affine_map<(d0) -> (0, d0 * 16)>, [1, 16]>] waits [#mpk_event.edge<@read, affine_map<(d0) -> (0)>, lag 1>] signals [#mpk_event.edge<@there, affine_map<(d0) -> (d0)>>] workers [0, 1] slots [0, 0] {
    ^bb0(%0 : tensor<1x32xf32>, %1 : tensor<16x32xf32>):
      %2 = mpk_tensor.linear %0, [%1] : tensor<1x32xf32>, [tensor<16x32xf32>] to tensor<1x16xf32>
      mpk_task.yield %2 : tensor<1x16xf32>
    }
    mpk_task.grid @copy [1] reads(%x : memref<1x32xf32>) writes(%half : memref<1x32xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>, #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 32]>] workers [0] slots [1] {
    ^bb0(%0 : tensor<1x32xf32>):
      mpk_task.yield %0 : tensor<1x32xf32>
    }
    mpk_task.grid @sum [2] reads(%parts : memref<2x1x32xf32>) writes(%z : memref<1x1x32xf32>) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, d0 * 16)>, [2, 1, 16]>, #mpk_task.region<affine_map<(d0) -> (0, 0, d0 * 16)>, [1, 1, 16]>] waits [#mpk_event.edge<@there, affine_map<(d0) -> (d0)>>] signals [#mpk_event.edge<@read, affine_map<(d0) -> (0)>>] workers [1, 0] slots [1, 2] {
    ^bb0(%0 : tensor<2x1x16xf32>):
      %1 = mpk_tensor.reduce sum %0 dims [0] : tensor<2x1x16xf32> to tensor<1x1x16xf32>
      mpk_task.yield %1 : tensor<1x1x16xf32>
    }
    func.return
  }
}
