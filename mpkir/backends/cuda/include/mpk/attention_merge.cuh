// Joins the chunks of a split attention.
//
// A printed body says
//   static constexpr int ROWS, D, SPLITS;     (token, head) pairs of a task, columns, chunks
//   using Acc, Stats;                         floats as they are in memory
//   static __device__ const Acc* acc(const Work&, int row, int split);       D floats
//   static __device__ const Stats* stats(const Work&, int row, int split);   {top, sum}, aligned to both
//   static __device__ int parts(const Work&);    chunks [0, parts) may have something to add
//   static __device__ void store(const Work&, int row, int d, float y);
//
// A warp joins 32 columns of a row. All that it reads is asked for at once: the tops and sums of every
// chunk, a lane for a chunk, and its columns of the chunks that may have any.
#pragma once
#include "abi.cuh"
#include "reduce.cuh"
#include "tagged.cuh"
#include "trace.cuh"

namespace mpk {

template <class B>
struct AttentionMerge {
  static constexpr bool streams = false;
  static constexpr int SPLITS = B::SPLITS, STATS = ceil_div(SPLITS, 32);
  static constexpr int PIECES = ceil_div(B::D, 32), UNITS = B::ROWS * PIECES;
  // Warps that share the chunks of one unit, where there are many chunks and few units.
  static constexpr int share() {
    int result = 1;
    while (2 * result * UNITS <= COMPUTE_WARPS && SPLITS > 16 * result) result *= 2;
    return result;
  }
  static constexpr int SHARE = share(), EACH = ceil_div(SPLITS, SHARE), AT_ONCE = least(EACH, 16);
  static constexpr int scratch_bytes = SHARE > 1 ? 4 * COMPUTE_THREADS : 0;
  static constexpr int partial_bytes = 0;

  template <class X>
  struct One {
    X value;
    __device__ __forceinline__ void request(const X* p) { value = load(p); }
    __device__ __forceinline__ bool arrived(u32) const { return true; }
    __device__ __forceinline__ float get() const { return value; }
  };
  template <class T>
  struct One<Tagged<T>> {
    Fetched<Tagged<T>, 1> element;
    __device__ __forceinline__ void request(const Tagged<T>* p) { element.request(p); }
    __device__ __forceinline__ bool arrived(u32 tag) const { return element.arrived(tag); }
    __device__ __forceinline__ float get() const { return element.get(0); }
  };

  struct Place {
    int row, d, member, lane, parts;
    __device__ __forceinline__ int split(int j) const { return member + SHARE * j; }
    __device__ __forceinline__ bool has(int j) const {
      return split(j) < least(parts, SPLITS) && d < B::D;
    }
  };
  struct Group {
    Fetched<typename B::Stats, 2> stats[STATS];
    One<typename B::Acc> acc[AT_ONCE];

    template <bool FIRST>
    __device__ __forceinline__ bool ask(const Work& work, const Place& at, int from) {
      bool all = true;
      if (from == 0) {
#pragma unroll
        for (int j = 0; j < STATS; ++j)
          if (at.lane + 32 * j < SPLITS && (FIRST || !stats[j].arrived(work.tag))) {
            all = false;
            stats[j].request(B::stats(work, at.row, at.lane + 32 * j));
          }
      }
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j)
        if (at.has(from + j) && (FIRST || !acc[j].arrived(work.tag))) {
          all = false;
          acc[j].request(B::acc(work, at.row, at.split(from + j)) + at.d);
        }
      return all;
    }
    __device__ __forceinline__ void await(const Work& work, const Place& at, int from) {
      ask<true>(work, at, from);
      for (u32 polls = 1;; ++polls)
        if (ask<false>(work, at, from) || gives_up(work, polls)) break;
      __syncwarp();
    }
  };

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* sums = reinterpret_cast<float*>(scratch);
    const int warp = threadIdx.x / 32;
    Place at;
    at.lane = threadIdx.x % 32, at.member = warp % SHARE, at.parts = B::parts(work);
#pragma unroll 1
    for (int first = 0; first < UNITS; first += COMPUTE_WARPS / SHARE) {
      const int unit = first + warp / SHARE;
      if (SHARE == 1 && unit >= UNITS) return;
      const bool works = SHARE == 1 || unit < UNITS;
      at.row = works ? unit / PIECES : 0, at.d = works ? unit % PIECES * 32 + at.lane : B::D;
      Group group{};
      group.await(work, at, 0);
      if (first == 0 && at.lane == 0) mark(work, Mark::ready_data);
      float keep[STATS], top = -infinity(), total = 0.0f, y = 0.0f;
#pragma unroll
      for (int j = 0; j < STATS; ++j) {
        keep[j] = at.lane + 32 * j < SPLITS ? group.stats[j].get(0) : -infinity();
        top = fmaxf(top, keep[j]);
      }
      top = warp_join<Larger>(top);
#pragma unroll
      for (int j = 0; j < STATS; ++j) {
        keep[j] = __expf(keep[j] - top);
        if (at.lane + 32 * j < SPLITS) total = fmaf(group.stats[j].get(1), keep[j], total);
      }
      total = warp_join<Add>(total);
#pragma unroll
      for (int from = 0; from < EACH; from += AT_ONCE) {
        if (SHARE * from >= at.parts) break;
        if (from > 0) group.await(work, at, from);
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          // SHARE divides 32, so which register it is in does not depend on the warp.
          const float factor = __shfl_sync(0xffffffffu, keep[least(SHARE * (from + j) / 32, STATS - 1)],
                                           at.split(from + j) % 32);
          if (at.has(from + j)) y = fmaf(group.acc[j].get(), factor, y);
        }
      }
      if constexpr (SHARE > 1) {
        if (first > 0) compute_sync();
        sums[threadIdx.x] = y;
        compute_sync();
        if (at.member != 0) continue;
        y = 0.0f;
#pragma unroll
        for (int m = 0; m < SHARE; ++m) y += sums[threadIdx.x + 32 * m];
      }
      if (at.d < B::D) B::store(work, at.row, at.d, y / total);
    }
  }
};

}  // namespace mpk
