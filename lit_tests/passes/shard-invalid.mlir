// RUN: not mpk-opt %s -p "mpk-shard{tp=0}" 2>&1 | filecheck %s --check-prefix NONE
// RUN: not mpk-opt %s -p "mpk-shard{tp=17}" 2>&1 | filecheck %s --check-prefix MANY
// RUN: not mpk-opt %s -p "mpk-shard{tp=7}" 2>&1 | filecheck %s --check-prefix SEVEN
// RUN: not mpk-opt %s -p "mpk-shard{tp=2},mpk-shard{tp=2}" 2>&1 | filecheck %s --check-prefix TWICE
// RUN: not mpk-opt %s -p "mpk-pipeline{target=cpu tp=7}" 2>&1 | filecheck %s --check-prefix SEVEN

// NONE:  a program for 0 ranks; 1 to 16 can share it
// MANY:  a program for 17 ranks; 1 to 16 can share it
// SEVEN: no product and no attention of the program can be divided among 7 ranks; 2, 4, 6, 8, 10, 12, 14 or 16 could share some of them
// TWICE: the program is divided among 2 ranks already; begin with the one that was exported

func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x12xbf16>
  %w = mpk_tensor.weight "w" : tensor<8x12xbf16>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x12xbf16>, [tensor<8x12xbf16>] to tensor<1x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x8xbf16>
  func.return
}
