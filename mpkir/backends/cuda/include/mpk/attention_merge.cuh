// Joins the chunks of a split attention.
//
// A printed body says
//   static constexpr int ROWS, D, SPLITS;     (token, head) pairs of a task, head size, chunks
//   static __device__ const float* acc(const Work&, int row, int split);     D floats
//   static __device__ const float* stats(const Work&, int row, int split);   {top, sum}
//   static __device__ void store(const Work&, int row, int d, float y);
#pragma once
#include "abi.cuh"
#include "reduce.cuh"

namespace mpk {

template <class B>
struct AttentionMerge {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0;
  static constexpr int partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    for (int at = threadIdx.x; at < B::ROWS * B::D; at += COMPUTE_THREADS) {
      const int row = at / B::D, d = at % B::D;
      float top = -infinity();
#pragma unroll 8
      for (int i = 0; i < B::SPLITS; ++i) top = fmaxf(top, load(B::stats(work, row, i)));
      float sum = 0.0f, y = 0.0f;
#pragma unroll 4
      for (int i = 0; i < B::SPLITS; ++i) {
        const float weight = load(B::stats(work, row, i) + 1);
        if (weight == 0.0f) continue;  // an empty chunk
        const float keep = __expf(load(B::stats(work, row, i)) - top);
        sum = fmaf(weight, keep, sum);
        y = fmaf(load(B::acc(work, row, i) + d), keep, y);
      }
      B::store(work, row, d, y / sum);
    }
  }
};

}  // namespace mpk
