// Sums and other joins over the lanes of a warp and over the compute warps.
#pragma once
#include "sync.cuh"

namespace mpk {

// A float as a number above 0 in the same order, which warps compare in one instruction: -0 is 0, and a NaN
// is above everything, as PyTorch orders.
__device__ __forceinline__ u32 ordered(float v) {
  const u32 bits = __float_as_uint(v + 0.0f);
  if (v != v) return ~0u;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_order(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

struct Add {
  __device__ __forceinline__ static float start() { return 0.0f; }
  __device__ __forceinline__ static float join(float a, float b) { return a + b; }
};
// Larger and Smaller let NaN through, as PyTorch does.
struct Larger {
  __device__ __forceinline__ static float start() { return -infinity(); }
  __device__ __forceinline__ static float join(float a, float b) { return a > b || a != a ? a : b; }
};
struct Smaller {
  __device__ __forceinline__ static float start() { return infinity(); }
  __device__ __forceinline__ static float join(float a, float b) { return a < b || a != a ? a : b; }
};

// e to the x; what is below the smallest normal number is 0.
__device__ __forceinline__ float exponential(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
  return y;
#else
  return __expf(x);
#endif
}

// Of N numbers, a power of two, half with half: as many additions one behind the other as N has digits.
template <int N>
__device__ __forceinline__ float halves_sum(float (&x)[N]) {
  static_assert(N % 2 == 0, "halves of halves");
  float half[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) half[i] = x[i] + x[i + N / 2];
  return halves_sum(half);
}
template <>
__device__ __forceinline__ float halves_sum(float (&x)[1]) {
  return x[0];
}

// Over groups of WIDTH neighbouring lanes; every lane gets the result.
template <class Join, int WIDTH = 32>
__device__ __forceinline__ float warp_join(float v) {
#pragma unroll
  for (int offset = WIDTH / 2; offset > 0; offset /= 2)
    v = Join::join(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
}

// Over all compute threads; every thread gets the result. `buffer` has one float for each warp and
// may be used again after the next compute_sync.
template <class Join>
__device__ __forceinline__ float compute_join(float v, float* buffer) {
  v = warp_join<Join>(v);
  if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = v;
  compute_sync();
  float result = Join::start();
#pragma unroll
  for (int i = 0; i < COMPUTE_WARPS; ++i) result = Join::join(result, buffer[i]);
  return result;
}

// N sums over a warp at once (N a power of two up to 32): each step halves the number of values a
// lane holds, so it takes N + log2(32 / N) - 1 shuffles, not 5 N. Lane l returns sum l / (32 / N).
// A recursion, not a loop, so that every index is a constant and v stays in registers.
template <int N, int OFFSET = 16>
__device__ __forceinline__ float warp_sums(const float (&v)[N], int lane) {
  static_assert(N >= 1 && N <= 2 * OFFSET && (N & (N - 1)) == 0, "a power of two");
  if constexpr (N == 1) {
    return warp_join<Add, 2 * OFFSET>(v[0]);
  } else {
    const bool upper = lane & OFFSET;
    float half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float low = v[i], high = v[i + N / 2];
      const float give = upper ? low : high, keep = upper ? high : low;
      half[i] = keep + __shfl_xor_sync(0xffffffffu, give, OFFSET);
    }
    if constexpr (OFFSET == 1) {
      return half[0];
    } else {
      return warp_sums<N / 2, OFFSET / 2>(half, lane);
    }
  }
}

}  // namespace mpk
