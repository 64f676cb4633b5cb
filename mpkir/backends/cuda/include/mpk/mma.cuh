// Tensor cores, as far as bodies share them: fragments of mma.m16n8k16, lanes as in the PTX manual's
// figures.
#pragma once
#include "types.cuh"

namespace mpk {

// sum += a * b: 16 rows of a by 8 columns of b, over 16.
__device__ __forceinline__ void add_product(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Two numbers rounded, the first in the lower half.
__device__ __forceinline__ u32 bf16_pair(float low, float high) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

}  // namespace mpk
