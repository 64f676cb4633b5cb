// Attention without a cache, one query at a time: right for any mask, not fast.
//
// A printed body says
//   static constexpr int ROWS, L, D;                         queries of a task, keys, head size
//   static constexpr float scale;
//   static __device__ float q(const Work&, int row, int d);
//   static __device__ float k(const Work&, int row, int j, int d);     of the query's head
//   static __device__ float v(const Work&, int row, int j, int d);
//   static __device__ float bias(const Work&, int row, int j);         the mask: -infinity is masked
//   static __device__ void store(const Work&, int row, int d, float y);
#pragma once
#include "abi.cuh"
#include "reduce.cuh"

namespace mpk {

template <class B>
struct Sdpa {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 4 * (B::L + B::D + 2 * COMPUTE_WARPS), partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* weights = reinterpret_cast<float*>(scratch);
    float* q = weights + B::L;
    float* buffer = q + B::D;
    for (int row = 0; row < B::ROWS; ++row) {
      compute_sync();
      for (int d = threadIdx.x; d < B::D; d += COMPUTE_THREADS) q[d] = B::q(work, row, d) * B::scale;
      compute_sync();
      float top = Larger::start(), sum = 0.0f;
      for (int j = threadIdx.x; j < B::L; j += COMPUTE_THREADS) {
        float score = B::bias(work, row, j);
        for (int d = 0; d < B::D; ++d) score = fmaf(q[d], B::k(work, row, j, d), score);
        weights[j] = score;
        top = Larger::join(top, score);
      }
      top = compute_join<Larger>(top, buffer);
      for (int j = threadIdx.x; j < B::L; j += COMPUTE_THREADS) {
        weights[j] = expf(weights[j] - top);
        sum += weights[j];
      }
      sum = compute_join<Add>(sum, buffer + COMPUTE_WARPS);
      for (int d = threadIdx.x; d < B::D; d += COMPUTE_THREADS) {
        float y = 0.0f;
        for (int j = 0; j < B::L; ++j) y = fmaf(weights[j], B::v(work, row, j, d), y);
        B::store(work, row, d, y / sum);
      }
    }
  }
};

}  // namespace mpk
