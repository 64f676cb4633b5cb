// mma.cuh of the device library in plain C++: each lane has its part of the fragments.
#pragma once
#include "types.cuh"

namespace mpk {

inline u32 bf16_pair(float low, float high) {
  return u32(convert<bf16>(low).bits) | u32(convert<bf16>(high).bits) << 16;
}
inline void add_product(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const int lane = threadIdx.x % 32;
  const auto half = [](u32 word, int i) { return __uint_as_float(i ? word & 0xffff0000u : word << 16); };
  // Rows lane / 4 and 8 more; columns 2 (lane % 4) and the next.
  for (int t = 0; t < 4; ++t) {
    const int row = lane / 4 * 4 + t;
    const u32 a[4] = {fibers::shuffle(a0, row), fibers::shuffle(a1, row), fibers::shuffle(a2, row),
                      fibers::shuffle(a3, row)};
    for (int c = 0; c < 2; ++c) {
      const int column = (2 * (lane % 4) + c) * 4 + t;
      const u32 b[2] = {fibers::shuffle(b0, column), fibers::shuffle(b1, column)};
      for (int i = 0; i < 2; ++i) {
        sum[c] += half(a[0], i) * half(b[0], i) + half(a[2], i) * half(b[1], i);
        sum[2 + c] += half(a[1], i) * half(b[0], i) + half(a[3], i) * half(b[1], i);
      }
    }
  }
}

}  // namespace mpk
