// The product for shapes that cannot stream (rows not a multiple of 16 bytes, many tokens): weights
// are read straight from global memory by a cooperative body. Same contract as linear.cuh.
#pragma once
#include "abi.cuh"
#include "best.cuh"
#include "reduce.cuh"
#include "tagged.cuh"

namespace mpk {

// What an epilogue reads, looked at again until it is there.
template <class Inputs>
__device__ __forceinline__ void await_inputs(const Work& work, int t, int row, Inputs& inputs) {
  for (u32 polls = 1; !inputs.arrived(work.tag) && !gives_up(work, polls); ++polls)
    inputs.request(work, t, row);
}
template <class epilogue>
__device__ __forceinline__ typename epilogue::Inputs inputs_of(const Work& work, int t, int row) {
  typename epilogue::Inputs inputs;
  inputs.request(work, t, row);
  await_inputs(work, t, row, inputs);
  return inputs;
}

enum class Norm { none, rms, layer };

template <class B>
struct DirectLinear {
  using prologue = typename B::prologue;
  static constexpr bool streams = false;
  static constexpr int CHUNK = 2048;  // elements of x held in shared memory at a time
  static constexpr int STORED = best_of<B> > 0 ? B::ROWS : 0;  // of a row of x, for the best of them
  static constexpr int scratch_bytes = CHUNK * 4 + 2 * COMPUTE_WARPS * 4 + STORED * 4;
  static constexpr int partial_bytes = 0;
  static constexpr int RW = ceil_div(B::ROWS, COMPUTE_WARPS);  // rows of a warp

  // Sum of (x - mean) or its square over row t.
  static __device__ __forceinline__ float total(const Work& work, int t, float mean, bool squares,
                                                float* buffer) {
    float sum = 0.0f;
    for (int k = threadIdx.x; k < B::K; k += COMPUTE_THREADS) {
      float x[1];
      prologue::template load<1>(work, t, k, x);
      const float d = x[0] - mean;
      sum += squares ? d * d : d;
    }
    sum = compute_join<Add>(sum, buffer);
    return sum;
  }

  static __device__ __forceinline__ void fill(const Work& work, int t, int from, float mean,
                                              float factor, float* xs) {
    for (int i = threadIdx.x; i < CHUNK && from + i < B::K; i += COMPUTE_THREADS) {
      float x[1];
      prologue::template load<1>(work, t, from + i, x);
      if constexpr (prologue::norm != Norm::none) {
        float g[1];
        prologue::template scale<1>(work, from + i, g);
        x[0] = (x[0] - mean) * factor * g[0];
      }
      if constexpr (prologue::norm == Norm::layer) {
        float b[1];
        prologue::template shift<1>(work, from + i, b);
        x[0] += b[0];
      }
      xs[i] = x[0];
    }
  }

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    using epilogue = typename B::epilogue;
    float* xs = reinterpret_cast<float*>(scratch);
    float* buffer = xs + CHUNK;
    [[maybe_unused]] float* stored = buffer + 2 * COMPUTE_WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = B::first_row(work.index), rows = least(B::ROWS, B::N - first);
    for (int t = 0; t < B::T; ++t) {
      float mean = 0.0f, factor = 1.0f;
      if constexpr (prologue::norm == Norm::layer)
        mean = total(work, t, 0.0f, false, buffer) / B::K;
      if constexpr (prologue::norm != Norm::none)
        factor = rsqrtf(total(work, t, mean, true, buffer + COMPUTE_WARPS) / B::K + prologue::eps);
      float sum[B::J][RW] = {};
      for (int from = 0; from < B::K; from += CHUNK) {
        compute_sync();
        fill(work, t, from, mean, factor, xs);
        compute_sync();
        const int count = least(CHUNK, B::K - from);
#pragma unroll
        for (int j = 0; j < B::J; ++j) {
          const typename B::Weight* weight = work.at<typename B::Weight>(B::weight(j));
#pragma unroll
          for (int i = 0; i < RW; ++i) {
            const int row = warp + COMPUTE_WARPS * i;
            if (row >= rows) continue;
            const typename B::Weight* source = weight + i64(first + row) * B::K + from;
            for (int k = lane; k < count; k += 32)
              sum[j][i] = fmaf(to_float(load_constant(source + k)), xs[k], sum[j][i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < RW; ++i) {
        const int row = warp + COMPUTE_WARPS * i;
        float y[B::J];
#pragma unroll
        for (int j = 0; j < B::J; ++j) y[j] = warp_join<Add>(sum[j][i]);
        if constexpr (best_of<B> > 0) {
          if (lane == 0 && row < rows)
            stored[row] = epilogue::store(work, t, row, y, inputs_of<epilogue>(work, t, row));
        } else {
          if (lane == 0 && row < rows) epilogue::store(work, t, row, y, inputs_of<epilogue>(work, t, row));
        }
      }
      if constexpr (best_of<B> > 0) {
        compute_sync();
        if (warp == 0) keep_best<B>(work, t, 1, rows, lane, [&](int, int row) { return stored[row]; });
        compute_sync();
      }
    }
  }
};

}  // namespace mpk
