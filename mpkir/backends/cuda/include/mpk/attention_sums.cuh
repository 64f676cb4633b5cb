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
  // Tops and sums: most have stored them by now.
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
      float tops[MEMBERS], weights[MEMBERS], values[MEMBERS];
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) {
        const float2 stats = reinterpret_cast<const float2*>(scratch.stats)[(warp + m) * GC + g];
        tops[m] = stats.x, weights[m] = stats.y;
        values[m] = scratch.sums[((warp + m) * GC + g) * D + d];
      }
      float largest[MEMBERS];
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) largest[m] = tops[m];
#pragma unroll
      for (int n = MEMBERS / 2; n > 0; n /= 2)
#pragma unroll
        for (int m = 0; m < n; ++m) largest[m] = fmaxf(largest[m], largest[m + n]);
      float top = fmaxf(largest[0], Shape::NONE), totals[2] = {}, ys[2] = {};
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) {
        const float keep = exponential(tops[m] - top);
        totals[m % 2] = fmaf(weights[m], keep, totals[m % 2]);
        ys[m % 2] = fmaf(values[m], keep, ys[m % 2]);
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
          if (others.parts > 0) {
            others.await(work);
            others.join(work, top, total, y);
          }
        }
        B::store(work, t, head, d, y / total);
      }
    }
  }
  // Of a token that attends to none of the task's rows.
  static __device__ __forceinline__ void write_empty(const Work& work, const Lane& at, int t) {
    if constexpr (B::split) {
      if (B::rows_before(work, work.position + T) == 0) return;
      for (int e = at.thread; e < 2 * G; e += COMPUTE_THREADS)
        B::store_stats(work, t, e / 2, e % 2, e % 2 == 0 ? -infinity() : 0.0f);
    }
    for (int e = at.thread; e < G * D; e += COMPUTE_THREADS) {
      if constexpr (B::split) B::store_acc(work, t, e / D, e % D, 0.0f);
      else B::store(work, t, e / D, e % D, 0.0f);
    }
  }
};

}  // namespace mpk
