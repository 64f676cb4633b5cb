// A product's results keep the best of their neighbours, for an argmax that does not read them again.
//
// A printed body that does so says
//   static constexpr int BEST;       of so many features, which divides ROWS and N
//   static __device__ void keep(const Work&, int t, int chunk, float value, i64 index);   index in [0, BEST)
// and its epilogue's store gives what it has stored, as a float.
#pragma once
#include "abi.cuh"
#include "candidate.cuh"

namespace mpk {

// Of how many features a product keeps the best; 0: it does not.
template <class B, class = void>
inline constexpr int best_of = 0;
template <class B>
inline constexpr int best_of<B, typename Always<decltype(&B::BEST)>::type> = B::BEST;

// Of tokens from `t` on, `count` of them and `rows` features of each: one warp, stored(t, row) is what was
// stored of them.
template <class B, class Stored>
__device__ __forceinline__ void keep_best(const Work& work, int t, int count, int rows, int lane,
                                          Stored stored) {
  const int chunks = rows / B::BEST, items = count * chunks;
#pragma unroll 1
  for (int first = 0; first < items; first += WARP) {
    // A lane keeps the best of one chunk, which all look for together.
    Candidate mine;
#pragma unroll 8
    for (int i = 0; i < least(items - first, WARP); ++i) {
      const int token = t + (first + i) / chunks, row = (first + i) % chunks * B::BEST;
      Candidate best;
#pragma unroll
      for (int at = 0; at < B::BEST; at += WARP)
        if (B::BEST % WARP == 0 || at + lane < B::BEST)
          best.take_next(stored(token, row + at + lane), u32(at + lane));
      best.join_warp();
      if (lane == i) mine = best;
    }
    const int own = first + lane;
    if (own < items) B::keep(work, t + own / chunks, own % chunks, of_order(mine.key), i64(mine.index));
  }
}

}  // namespace mpk
