// An element that may be the largest, and where it is: the lowest of equals, a NaN above everything (as
// PyTorch orders).
#pragma once
#include "reduce.cuh"

namespace mpk {

struct Candidate {
  u32 key = 0;      // the value, ordered (reduce.cuh); none yet
  u32 index = ~0u;  // of equals the lowest

  __device__ __forceinline__ void take(u32 k, u32 i) {
    if (k > key || (k == key && i < index)) key = k, index = i;
  }
  // One behind all that were taken before.
  __device__ __forceinline__ void take_next(float v, u32 i) {
    const u32 k = ordered(v);
    if (k > key) key = k, index = i;
  }
  // Over a warp; every lane gets the result.
  __device__ __forceinline__ void join_warp() {
    const u32 largest = __reduce_max_sync(0xffffffffu, key);
    index = __reduce_min_sync(0xffffffffu, key == largest ? index : ~0u);
    key = largest;
  }
  // Over all compute threads; every thread gets the result.
  __device__ __forceinline__ void join(char* scratch) {
    join_warp();
    u32(*const each)[2] = reinterpret_cast<u32(*)[2]>(scratch);
    compute_sync();
    if (threadIdx.x % 32 == 0) each[threadIdx.x / 32][0] = key, each[threadIdx.x / 32][1] = index;
    compute_sync();
    for (int w = 0; w < COMPUTE_WARPS; ++w) take(each[w][0], each[w][1]);
  }
  static constexpr int scratch_bytes = 8 * COMPUTE_WARPS;
};

}  // namespace mpk
