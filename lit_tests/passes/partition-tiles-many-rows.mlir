// RUN: mpk-opt %s -p "mpk-partition-tiles{workers=4}" | filecheck %s --check-prefix=FEW
// RUN: mpk-opt %s -p "mpk-partition-tiles{workers=4 max_rows_of_many=4}" | filecheck %s --check-prefix=MANY

// The sums of eight rows of x take shared memory from the ring, so their tasks may be bounded by themselves:
// 4 features each, where those of two rows have as many as balance.
// FEW:  mpk_task.grid @linear [4]
// FEW:  mpk_task.grid @linear.1 [4]
// MANY: mpk_task.grid @linear [4]
// MANY: mpk_task.grid @linear.1 [16]
func.func @step() -> (tensor<2x64xbf16>, tensor<8x64xbf16>) {
  %w = mpk_tensor.weight "w" : tensor<64x32xbf16>
  %two = mpk_tensor.input "two" : tensor<2x32xbf16>
  %eight = mpk_tensor.input "eight" : tensor<8x32xbf16>
  %a = mpk_tensor.linear %two, [%w] : tensor<2x32xbf16>, [tensor<64x32xbf16>] to tensor<2x64xbf16>
  %b = mpk_tensor.linear %eight, [%w] : tensor<8x32xbf16>, [tensor<64x32xbf16>] to tensor<8x64xbf16>
  func.return %a, %b : tensor<2x64xbf16>, tensor<8x64xbf16>
}
