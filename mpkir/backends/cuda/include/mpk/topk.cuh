// A router's choice: the largest elements of a row, in descending order, the first of equals first.
//
// A printed body says
//   static constexpr int ROWS, WIDTH, COUNT;  rows of a task; elements of a row; how many are chosen
//   static constexpr mpk::Scores scores;
//   static __device__ float x(const Work&, int row, int i);
//   static __device__ void store(const Work&, int row, int c, float value, i64 index);
//
// A warp has a row. Elements become integers of the same order, so that a round is two warp
// reductions: the largest, and the lowest index that has it. A NaN is above everything.
#pragma once
#include "abi.cuh"
#include "reduce.cuh"

namespace mpk {

enum class Scores { raw, softmax, softmax_of_chosen };

template <class B>
struct Topk {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;
  static constexpr int V = ceil_div(B::WIDTH, 32), C = ceil_div(B::COUNT, 32);
  static constexpr u32 ALL = 0xffffffffu;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int row = warp; row < B::ROWS; row += COMPUTE_WARPS) {
      float x[V], chosen[C];
      u32 key[V], place[C];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const bool inside = i * 32 + lane < B::WIDTH;
        x[i] = inside ? B::x(work, row, i * 32 + lane) : -infinity();
        key[i] = inside ? ordered(x[i]) : 0;
      }
      float top = 0.0f;
#pragma unroll 1
      for (int c = 0; c < B::COUNT; ++c) {
        u32 best = 0, at = ALL;
#pragma unroll
        for (int i = 0; i < V; ++i) best = best > key[i] ? best : key[i];
        best = __reduce_max_sync(ALL, best);
#pragma unroll
        for (int i = V - 1; i >= 0; --i)
          if (key[i] == best) at = i * 32 + lane;
        at = __reduce_min_sync(ALL, at);
        float value = 0.0f;
#pragma unroll
        for (int i = 0; i < V; ++i)
          if (i * 32 + lane == int(at)) value = x[i], key[i] = 0;
        value = __shfl_sync(ALL, value, at % 32);
        if (c == 0) top = value;
#pragma unroll
        for (int i = 0; i < C; ++i)
          if (i * 32 + lane == c) chosen[i] = value, place[i] = at;
      }
      float total = 0.0f;
      if constexpr (B::scores == Scores::softmax) {
#pragma unroll
        for (int i = 0; i < V; ++i) total += expf(x[i] - top);
        total = warp_join<Add>(total);
      }
      if constexpr (B::scores == Scores::softmax_of_chosen) {
#pragma unroll
        for (int i = 0; i < C; ++i)
          if (i * 32 + lane < B::COUNT) total += expf(chosen[i] - top);
        total = warp_join<Add>(total);
      }
#pragma unroll
      for (int i = 0; i < C; ++i) {
        if (i * 32 + lane >= B::COUNT) continue;
        const float score = B::scores == Scores::raw ? chosen[i] : expf(chosen[i] - top) / total;
        B::store(work, row, i * 32 + lane, score, i64(place[i]));
      }
    }
  }
};

}  // namespace mpk
