// RUN: mpk-opt %s -p mpk-partition-tiles{workers=3} | filecheck %s
// RUN: mpk-opt %s -p mpk-partition-tiles{workers=3},mpk-choose-handoffs,mpk-plan-memory | filecheck %s --check-prefix FLAGS
// RUN: sed 's/all_reduce \(..\) of 4 : tensor<1x64xf32> to tensor<1x64xf32>/reduce_scatter \1 dim 1 of 4 : tensor<1x64xf32> to tensor<1x16xf32>/;s/"s", \(..\) : tensor<1x64xf32>/"s", \1 shard <dim 1 of 4> : tensor<1x16xf32>/' %s | mpk-opt -f mlir -p mpk-partition-tiles{workers=3},mpk-choose-handoffs | filecheck %s --check-prefix SCATTER

// A product writes its partial sums into the memories of all ranks; tasks of 32 columns add the rows
// in the order of ranks. What two different ranks have of a gathered value is a view of their rows.

// CHECK:      mpk_task.buffer weight "v" shard <dim 1 of 4> : memref<64x8xf32>
// CHECK:      %[[sums:.*]] = mpk_task.buffer scratch "linear" exchange : memref<4x1x64xf32>
// CHECK-NEXT: %[[own:.*]] = mpk_task.mine %[[sums]] : memref<4x1x64xf32> to memref<1x64xf32>
// CHECK-NEXT: mpk_task.grid @linear [{{.*}}] reads({{.*}}) writes(%[[own]] : memref<1x64xf32>)
// CHECK:      %[[rows:.*]] = mpk_task.view %[[sums]] : memref<4x1x64xf32> to memref<4x1x64xf32>
// CHECK:      mpk_task.grid @all_reduce [2] reads(%[[rows]] : memref<4x1x64xf32>) writes({{.*}}) boxes [#mpk_task.region<affine_map<(d0) -> (0, 0, (d0 * 32))>, [4, 1, 32]>,
// CHECK-NEXT: ^{{.*}}(%[[tile:.*]]: tensor<4x1x32xf32>):
// CHECK-NEXT: mpk_tensor.slice %[[tile]] dim 0 start 0
// CHECK:      mpk_tensor.slice %[[tile]] dim 0 start 3
// CHECK:      mpk_tensor.elementwise
// CHECK:      %[[parts:.*]] = mpk_task.buffer scratch "elementwise" exchange : memref<4x1x64xf32>
// CHECK:      mpk_task.view %[[parts]] : memref<4x1x64xf32> to memref<2x64xf32, strided<[128, 1]>>
// CHECK:      mpk_task.buffer output "y" shard <dim 1 of 4> : memref<1x64xf32>

// FLAGS:      mpk_task.buffer scratch "linear" exchange flagged : memref<4x1x64xf32>
// FLAGS:      mpk_task.buffer scratch "elementwise" exchange flagged : memref<4x1x64xf32>

// Of a sum in parts each rank gets what it adds up: a part of every rank's row.

// SCATTER:      %[[sums:.*]] = mpk_task.buffer scratch "linear" exchange flagged : memref<4x1x16xf32>
// SCATTER-NEXT: %[[all:.*]] = mpk_task.scatter %[[sums]] dim 1 : memref<4x1x16xf32> to memref<1x64xf32>
// SCATTER-NEXT: mpk_task.grid @linear [{{.*}}] reads({{.*}}) writes(%[[all]] : memref<1x64xf32>)
// SCATTER:      %[[rows:.*]] = mpk_task.view %[[sums]] : memref<4x1x16xf32> to memref<4x1x16xf32>
// SCATTER:      mpk_task.grid @reduce_scatter [1] reads(%[[rows]] : memref<4x1x16xf32>)
module attributes {mpk.mesh = {tp = 4}} {
  func.func @step() {
    %x = mpk_tensor.input "x" : tensor<1x8xf32>
    %v = mpk_tensor.weight "v" shard <dim 1 of 4> : tensor<64x8xf32>
    %p = mpk_tensor.linear %x, [%v] : tensor<1x8xf32>, [tensor<64x8xf32>] to tensor<1x64xf32>
    %s = mpk_tensor.all_reduce %p of 4 : tensor<1x64xf32> to tensor<1x64xf32>
    mpk_tensor.output "s", %s : tensor<1x64xf32>
    %z = mpk_tensor.input "z" : tensor<1x64xf32>
    %e = mpk_tensor.elementwise %z {
    ^bb0(%0 : f32):
      %1 = arith.addf %0, %0 : f32
      mpk_tensor.yield %1 : f32
    } : (tensor<1x64xf32>) -> tensor<1x64xf32>
    %g = mpk_tensor.all_gather %e dim 0 of 2 : tensor<1x64xf32> to tensor<2x64xf32>
    %t = mpk_tensor.elementwise %g {
    ^bb0(%0 : f32):
      %1 = arith.mulf %0, %0 : f32
      mpk_tensor.yield %1 : f32
    } : (tensor<2x64xf32>) -> tensor<2x64xf32>
    mpk_tensor.output "t", %t : tensor<2x64xf32>
    mpk_tensor.output "y", %z shard <dim 1 of 4> : tensor<1x64xf32>
    func.return
  }
}
