// The results of an attention's chunks on their way to who joins them.
//
// What is printed of them:
//   static constexpr int SPLITS;              how many there are
//   using Acc, Stats;                         floats as they are in memory
//   static __device__ const Acc* acc(const Work&, int row, int split);       elements of a (token, head)
//   static __device__ const Stats* stats(const Work&, int row, int split);   {top, sum}, aligned to both
//   static __device__ int parts(const Work&);    those of [0, parts) may have something to add
//
// A warp joins 32 columns of a row, a lane has one. All that it reads of the chunks that may have something
// is asked for at once: their tops and sums, a lane for a chunk, and its columns.
#pragma once
#include "reduce.cuh"
#include "tagged.cuh"

namespace mpk {

// SHARE: warps that share the chunks of one unit; this one has every SHARE-th from `member` on.
template <class B, int SHARE>
struct AttentionParts {
  static constexpr int SPLITS = B::SPLITS, STATS = ceil_div(SPLITS, 32);
  static constexpr int EACH = ceil_div(SPLITS, SHARE), AT_ONCE = least(EACH, 16);

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

  int row, d, member, lane, parts;
  const typename B::Acc* column_at[AT_ONCE];  // found once: who polls loses no time
  const typename B::Stats* stats_at[STATS];
  bool holds;  // whether column d is one of the row's
  Fetched<typename B::Stats, 2> stats[STATS];
  One<typename B::Acc> acc[AT_ONCE];

  __device__ __forceinline__ int split(int j) const { return member + SHARE * j; }
  __device__ __forceinline__ bool has(int j) const { return split(j) < least(parts, SPLITS) && holds; }

  // Asks for what has not arrived, or for all; whether all has.
  template <bool FIRST>
  __device__ __forceinline__ bool ask_stats(const Work& work) {
    bool all = true;
#pragma unroll
    for (int j = 0; j < STATS; ++j)
      if (lane + 32 * j < parts && (FIRST || !stats[j].arrived(work.tag))) {
        all = false;
        if constexpr (FIRST) stats_at[j] = B::stats(work, row, lane + 32 * j);
        stats[j].request(stats_at[j]);
      }
    return all;
  }
  template <bool FIRST>
  __device__ __forceinline__ bool ask_acc(const Work& work, int from) {
    bool all = true;
    if constexpr (FIRST) {
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) column_at[j] = B::acc(work, row, split(from + j)) + d;
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      if (has(from + j) && (FIRST || !acc[j].arrived(work.tag))) {
        all = false;
        acc[j].request(column_at[j]);
      }
    return all;
  }
  // After ask_stats<true> and ask_acc<true>(0).
  __device__ __forceinline__ void await(const Work& work) {
    for (u32 polls = 1;; ++polls) {
      const bool all_stats = ask_stats<false>(work), all_acc = ask_acc<false>(work, 0);
      if ((all_stats && all_acc) || gives_up(work, polls)) break;
    }
    __syncwarp();
  }
  __device__ __forceinline__ void await_more(const Work& work, int from) {
    ask_acc<true>(work, from);
    for (u32 polls = 1;; ++polls)
      if (ask_acc<false>(work, from) || gives_up(work, polls)) break;
    __syncwarp();
  }

  // Adds the chunks to what stands for others: y is the lane's column and `total` the sum, of
  // exp(score - top). The whole warp, after await; top and total are equal in all lanes. With SHARE,
  // y is this warp's share only, and it begins with 0.
  __device__ __forceinline__ void join(const Work& work, float& top, float& total, float& y) {
    float keep[STATS], largest = top;
#pragma unroll
    for (int j = 0; j < STATS; ++j) {
      keep[j] = lane + 32 * j < parts ? stats[j].get(0) : -infinity();
      largest = fmaxf(largest, keep[j]);
    }
    largest = warp_join<Larger>(largest);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < STATS; ++j) {
      keep[j] = exponential(keep[j] - largest);
      if (lane + 32 * j < parts) sum = fmaf(stats[j].get(1), keep[j], sum);
    }
    const float own = exponential(top - largest);
    total = fmaf(total, own, warp_join<Add>(sum));
    y *= own;
    top = largest;
#pragma unroll
    for (int from = 0; from < EACH; from += AT_ONCE) {
      if (SHARE * from >= parts) break;
      if (from > 0) await_more(work, from);
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) {
        // SHARE divides 32, so which register it is in does not depend on the warp.
        const float factor = __shfl_sync(0xffffffffu, keep[least(SHARE * (from + j) / 32, STATS - 1)],
                                         split(from + j) % 32);
        if (has(from + j)) y = fmaf(acc[j].get(), factor, y);
      }
    }
  }
};

}  // namespace mpk
