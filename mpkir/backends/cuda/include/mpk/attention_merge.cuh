// Joins the chunks of a split attention.
//
// A printed body says
//   static constexpr int ROWS, D;             (token, head) pairs of a task, columns
//   ..                                        its chunks (attention_parts.cuh)
//   static __device__ void store(const Work&, int row, int d, float y);
#pragma once
#include "abi.cuh"
#include "attention_parts.cuh"
#include "trace.cuh"

namespace mpk {

template <class B>
struct AttentionMerge {
  static constexpr bool streams = false;
  static constexpr int PIECES = ceil_div(B::D, 32), UNITS = B::ROWS * PIECES;
  // Warps that share the chunks of one unit, where there are many chunks and few units.
  static constexpr int share() {
    int result = 1;
    while (2 * result * UNITS <= COMPUTE_WARPS && B::SPLITS > 16 * result) result *= 2;
    return result;
  }
  static constexpr int SHARE = share();
  static constexpr int scratch_bytes = SHARE > 1 ? 4 * COMPUTE_THREADS : 0;
  static constexpr int partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* sums = reinterpret_cast<float*>(scratch);
    const int warp = threadIdx.x / 32;
#pragma unroll 1
    for (int first = 0; first < UNITS; first += COMPUTE_WARPS / SHARE) {
      const int unit = first + warp / SHARE;
      if (SHARE == 1 && unit >= UNITS) return;
      const bool works = SHARE == 1 || unit < UNITS;
      AttentionParts<B, SHARE> chunks{};
      chunks.lane = threadIdx.x % 32, chunks.member = warp % SHARE, chunks.parts = B::parts(work);
      chunks.row = works ? unit / PIECES : 0, chunks.d = unit % PIECES * 32 + chunks.lane;
      chunks.holds = works && chunks.d < B::D;
      chunks.template ask_stats<true>(work);
      chunks.template ask_acc<true>(work, 0);
      chunks.await(work);
      if (first == 0 && chunks.lane == 0) mark(work, Mark::ready_data);
      float top = -infinity(), total = 0.0f, y = 0.0f;
      chunks.join(work, top, total, y);
      if constexpr (SHARE > 1) {
        if (first > 0) compute_sync();
        sums[threadIdx.x] = y;
        compute_sync();
        if (chunks.member != 0) continue;
        y = 0.0f;
#pragma unroll
        for (int m = 0; m < SHARE; ++m) y += sums[threadIdx.x + 32 * m];
      }
      if (chunks.holds) B::store(work, chunks.row, chunks.d, y / total);
    }
  }
};

}  // namespace mpk
