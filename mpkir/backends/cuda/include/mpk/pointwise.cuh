// Any function of corresponding elements: arithmetic, copies, gathers, cache appends.
//
// A printed body says
//   static constexpr int COUNT;                            elements of a task
//   static __device__ void element(const Work&, int i);    loads, computes, stores element i
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

template <class B>
struct Pointwise {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
#pragma unroll 4
    for (int i = threadIdx.x; i < B::COUNT; i += COMPUTE_THREADS) B::element(work, i);
  }
};

}  // namespace mpk
