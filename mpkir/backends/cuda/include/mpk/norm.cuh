// Operators along one row at a time: norms, softmax, reductions.
//
// A printed body says
//   static constexpr int ROWS, K;                                   rows of a task, elements of a row
//   static __device__ float load(const Work&, int row, int k);
//   static __device__ void store(const Work&, int row, int k, float y);     k = 0 for a reduction
// and for norms
//   static constexpr float eps;
//   static __device__ float scale(const Work&, int k);  static __device__ float shift(const Work&, int k);
#pragma once
#include "abi.cuh"
#include "linear_direct.cuh"
#include "reduce.cuh"

namespace mpk {

// f over the elements of a row that belong to this thread.
template <class B, class F>
__device__ __forceinline__ void over_row(F f) {
#pragma unroll 4
  for (int k = threadIdx.x; k < B::K; k += COMPUTE_THREADS) f(k);
}

template <class B, Norm KIND>
struct RowNorm {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 2 * 4 * COMPUTE_WARPS, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* buffer = reinterpret_cast<float*>(scratch);
    for (int row = 0; row < B::ROWS; ++row) {
      compute_sync();
      float mean = 0.0f, sum = 0.0f;
      if constexpr (KIND == Norm::layer) {
        over_row<B>([&](int k) { mean += B::load(work, row, k); });
        mean = compute_join<Add>(mean, buffer) / B::K;
      }
      over_row<B>([&](int k) {
        const float d = B::load(work, row, k) - mean;
        sum += d * d;
      });
      const float factor = rsqrtf(compute_join<Add>(sum, buffer + COMPUTE_WARPS) / B::K + B::eps);
      over_row<B>([&](int k) {
        float y = (B::load(work, row, k) - mean) * factor * B::scale(work, k);
        if constexpr (KIND == Norm::layer) y += B::shift(work, k);
        B::store(work, row, k, y);
      });
    }
  }
};

template <class B>
struct RowSoftmax {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 2 * 4 * COMPUTE_WARPS, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* buffer = reinterpret_cast<float*>(scratch);
    for (int row = 0; row < B::ROWS; ++row) {
      compute_sync();
      float top = Larger::start(), sum = 0.0f;
      over_row<B>([&](int k) { top = Larger::join(top, B::load(work, row, k)); });
      top = compute_join<Larger>(top, buffer);
      over_row<B>([&](int k) { sum += expf(B::load(work, row, k) - top); });
      sum = compute_join<Add>(sum, buffer + COMPUTE_WARPS);
      over_row<B>([&](int k) { B::store(work, row, k, expf(B::load(work, row, k) - top) / sum); });
    }
  }
};

template <class B>
using RmsNorm = RowNorm<B, Norm::rms>;
template <class B>
using LayerNorm = RowNorm<B, Norm::layer>;

// The join of a row's elements, times `factor` (1 / K for a mean).
template <class B, class Join>
struct RowReduce {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 4 * COMPUTE_WARPS, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    for (int row = 0; row < B::ROWS; ++row) {
      compute_sync();
      float value = Join::start();
      over_row<B>([&](int k) { value = Join::join(value, B::load(work, row, k)); });
      value = compute_join<Join>(value, reinterpret_cast<float*>(scratch));
      if (threadIdx.x == 0) B::store(work, row, 0, value * B::factor);
    }
  }
};

template <class B>
using ReduceSum = RowReduce<B, Add>;
template <class B>
using ReduceMax = RowReduce<B, Larger>;
template <class B>
using ReduceMin = RowReduce<B, Smaller>;

}  // namespace mpk
