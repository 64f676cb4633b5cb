// Elements that carry one bit of the number of the step that wrote them, so that they take no more
// room than plain ones: enough where all readers look at every element in every step, for what they
// find is of this step or of the one before. tagged.cuh loads and stores them.
#pragma once
#include "types.cuh"

namespace mpk {

template <class T>
struct Brief;

// The last bit of a float is the step's.
template <>
struct Brief<float> {
  u32 word;

  static constexpr u32 MARKS = 1;
  static __device__ __forceinline__ u32 of(float v, u32 tag) {
    return (__float_as_uint(v) & ~MARKS) | (tag & MARKS);
  }
};

// bf16 has no bit to spare in its mantissa, but exponents that no activation has: times 2^-64 what is
// below 2^64 is below 1, and so are the numbers whose first exponent bit is 0, which is the step's.
// What is not (or is no number) is kept as 1, and read as no number. Below 2^-62 precision is lost bit
// by bit, as it is in subnormal numbers; 2^-70 and less is 0.
template <>
struct Brief<bf16> {
  unsigned short word;

  static constexpr u32 MARK = 0x4000, MARKS = 0x40004000;
  static __device__ __forceinline__ unsigned short of(float v, u32 tag) {
    constexpr int TOO_LARGE = 0x3f80;
    const u32 bits = convert<bf16>(v * 0x1p-64f).bits;
    return static_cast<unsigned short>((bits & 0x8000u) | u32(least(int(bits & 0x7fffu), TOO_LARGE)) |
                                       (tag & 1u) << 14);
  }
  // Two words as two bf16, the first in the lower half.
  static __device__ __forceinline__ u32 pair(u32 words) {
    constexpr u32 NOTHING = 0x80008000, LARGE = 0x5f805f80;  // -0, to which adding changes nothing; 2^64
    const u32 value = multiply_add(words & ~MARKS, LARGE, NOTHING);
    const u32 limit = multiply_add(value, LARGE, NOTHING);  // infinite from 2^64 on
    return multiply_add(limit, 0u, value);                  // and infinity times 0 is no number
  }
};

// Floats as two planes of brief bf16, DISTANCE elements apart: what rounding leaves, which products of
// many tokens poll alone, and what it loses. An address is one in the first.
template <int DISTANCE>
struct Planes {
  Brief<bf16> rounded;

  static __device__ __forceinline__ Brief<bf16>* lost(Planes* p) { return &p->rounded + DISTANCE; }
  static __device__ __forceinline__ const Brief<bf16>* lost(const Planes* p) { return &p->rounded + DISTANCE; }
};

}  // namespace mpk
