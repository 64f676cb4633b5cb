// A product of two activations, one warp for each output element: right for any strides, not fast.
//
// A printed body says
//   static constexpr int COUNT, K;
//   static __device__ float a(const Work&, int i, int k);   factors of output element i
//   static __device__ float b(const Work&, int i, int k);
//   static __device__ void store(const Work&, int i, float y);
#pragma once
#include "abi.cuh"
#include "reduce.cuh"

namespace mpk {

template <class B>
struct Matmul {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = warp; i < B::COUNT; i += COMPUTE_WARPS) {
      float sum = 0.0f;
#pragma unroll 4
      for (int k = lane; k < B::K; k += 32) sum = fmaf(B::a(work, i, k), B::b(work, i, k), sum);
      sum = warp_join<Add>(sum);
      if (lane == 0) B::store(work, i, sum);
    }
  }
};

}  // namespace mpk
