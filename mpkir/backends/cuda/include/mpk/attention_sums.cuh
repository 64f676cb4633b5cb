// The end of a task of attention: the sums of its warps are joined, with those of other chunks where the
// body says so, and stored.
#pragma once
#include "attention_parts.cuh"
#include "attention_shape.cuh"

namespace mpk {

// What a task joins to its own rows; nothing if it does not.
template <class B, bool JOINS>
struct Others {
  __device__ __forceinline__ void ask_early(const Work&, int, bool) {}
};
template <class B>
struct Others<B, true> : AttentionParts<B, 1> {
  // Tops and sums, which those that have no rows have stored by now, as good as.
  __device__ __forceinline__ void ask_early(const Work& work, int head, bool first) {
    if (first) {
      this->row = head, this->member = 0, this->lane = threadIdx.x % 32, this->parts = B::parts(work);
      this->holds = true;
      this->template ask_stats<true>(work);
    } else {
      this->template ask_stats<false>(work);
    }
  }
};

// B: a printed body of attention.cuh.
template <class B>
struct AttentionSums {
  using Shape = AttentionShape<B>;
  using Lane = typename Shape::Lane;
  using Scratch = typename Shape::Scratch;
  static constexpr int T = B::T, D = B::D, G = B::G;
  static constexpr int GROUPS = Shape::GROUPS, GC = Shape::GC, MEMBERS = Shape::MEMBERS;
  static_assert(!B::joins || (!B::split && T == 1 && D % 32 == 0), "joins columns of one token in warps");
  using OtherChunks = Others<B, B::joins>;

  // Joins the warps of each group and stores heads [first, first + GROUPS * GC).
  static __device__ __forceinline__ void write(const Work& work, const Lane& at, const Scratch& scratch, int t,
                                               int first, OtherChunks& others) {
    for (int e = at.thread; e < GROUPS * GC * D; e += COMPUTE_THREADS) {
      const int slot = e / D, d = e % D, head = first + slot;
      if (head >= G) continue;
      const int warp = slot / GC * MEMBERS, g = slot % GC;
      if constexpr (B::joins) {
        if (first > 0 || e >= COMPUTE_THREADS) others.ask_early(work, head, true);
        others.d = d;
        others.template ask_acc<true>(work, 0);
      }
      float tops[MEMBERS], totals[2] = {}, ys[2] = {};
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) tops[m] = scratch.stats[((warp + m) * GC + g) * 2];
#pragma unroll
      for (int n = MEMBERS / 2; n > 0; n /= 2)
#pragma unroll
        for (int m = 0; m < n; ++m) tops[m] = fmaxf(tops[m], tops[m + n]);
      float top = fmaxf(tops[0], Shape::NONE);
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) {
        const float* stats = scratch.stats + ((warp + m) * GC + g) * 2;
        const float keep = exponential(stats[0] - top);
        totals[m % 2] = fmaf(stats[1], keep, totals[m % 2]);
        ys[m % 2] = fmaf(scratch.sums[((warp + m) * GC + g) * D + d], keep, ys[m % 2]);
      }
      float total = totals[0] + totals[1], y = ys[0] + ys[1];
      if constexpr (B::split) {
        B::store_acc(work, t, head, d, y);
        if (d == 0) {
          B::store_stats(work, t, head, 0, total > 0.0f || total != total ? top : -infinity());
          B::store_stats(work, t, head, 1, total);
        }
      } else {
        if constexpr (B::joins) {
          others.await(work);
          others.join(work, top, total, y);
        }
        B::store(work, t, head, d, y / total);
      }
    }
  }
  // Of a token that attends to none of the task's rows.
  static __device__ __forceinline__ void write_empty(const Work& work, const Lane& at, int t) {
    if constexpr (B::split) {
      for (int e = at.thread; e < 2 * G; e += COMPUTE_THREADS)
        B::store_stats(work, t, e / 2, e % 2, e % 2 == 0 ? -infinity() : 0.0f);
      if (B::rows_before(work, work.position + T) == 0) return;
    }
    for (int e = at.thread; e < G * D; e += COMPUTE_THREADS) {
      if constexpr (B::split) B::store_acc(work, t, e / D, e % D, 0.0f);
      else B::store(work, t, e / D, e % D, 0.0f);
    }
  }
};

}  // namespace mpk
