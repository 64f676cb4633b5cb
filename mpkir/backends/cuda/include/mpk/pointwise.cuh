// Any function of corresponding elements: arithmetic, copies, gathers, cache appends.
//
// A printed body says
//   static constexpr int COUNT;                            elements of a task
//   static __device__ void element(const Work&, int i);    loads, computes, stores element i
// or, to be Gathered from what several ranks send,
//   struct Sent {                                          all marked elements that element i needs
//     __device__ void request(const Work&, int i);
//     __device__ bool arrived(u32 tag) const;
//   };
//   static __device__ void element(const Work&, int i, const Sent&);
#pragma once
#include "abi.cuh"
#include "sync.cuh"
#include "tagged.cuh"
#include "trace.cuh"

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

// The same, with everything that an element needs asked for before any of it is looked at: rows of
// all ranks and what is added to them cost one round trip.
template <class B>
struct Gathered {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    for (int first = threadIdx.x; first < B::COUNT; first += TOGETHER * COMPUTE_THREADS) {
      typename B::Sent sent[TOGETHER];
#pragma unroll
      for (int k = 0; k < TOGETHER; ++k)
        if (exists(first, k)) sent[k].request(work, first + k * COMPUTE_THREADS);
      for (u32 polls = 1;; ++polls) {
        bool all = true;
#pragma unroll
        for (int k = 0; k < TOGETHER; ++k) {
          if (exists(first, k) && !sent[k].arrived(work.tag)) {
            all = false;
            sent[k].request(work, first + k * COMPUTE_THREADS);
          }
        }
        if (all || gives_up(work, polls)) break;
      }
      if (first == 0) mark(work, Mark::ready_data);
#pragma unroll
      for (int k = 0; k < TOGETHER; ++k)
        if (exists(first, k)) B::element(work, first + k * COMPUTE_THREADS, sent[k]);
    }
  }

 private:
  static constexpr int TOGETHER = least(4, ceil_div(B::COUNT, COMPUTE_THREADS));

  static __device__ __forceinline__ bool exists(int first, int k) {
    return B::COUNT % (TOGETHER * COMPUTE_THREADS) == 0 || first + k * COMPUTE_THREADS < B::COUNT;
  }
};

}  // namespace mpk
