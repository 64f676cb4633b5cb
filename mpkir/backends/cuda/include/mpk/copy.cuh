// Moves elements unchanged, any type and strides: views that could not be folded, cache appends.
//
// A printed body says
//   static constexpr int COUNT;
//   using Element = ...;
//   static __device__ const Element* source(const Work&, int i);
//   static __device__ Element* target(const Work&, int i);        nullptr: dropped
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

template <class B>
struct Copy {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
#pragma unroll 4
    for (int i = threadIdx.x; i < B::COUNT; i += COMPUTE_THREADS) {
      typename B::Element* target = B::target(work, i);
      if (target != nullptr) *target = load(B::source(work, i));
    }
  }
};

}  // namespace mpk
