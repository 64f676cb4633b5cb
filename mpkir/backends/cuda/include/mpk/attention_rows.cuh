// A task's rows of the cache by shuffles: some lanes share a row, each with 8 of its elements. For what
// attention_products.cuh does not cover: other caches than bf16, other head sizes, many heads, several
// tokens.
#pragma once
#include "attention_shape.cuh"
#include "reduce.cuh"

namespace mpk {

// B: a printed body of attention.cuh.
template <class B>
struct AttentionRows {
  using Shape = AttentionShape<B>;
  using Cache = typename B::Cache;
  using Lane = typename Shape::Lane;
  using Range = typename Shape::Range;
  using Row = typename Shape::Row;
  using Scratch = typename Shape::Scratch;
  static constexpr int T = B::T, D = B::D, GC = Shape::GC, LANES = Shape::LANES, AT_ONCE = Shape::AT_ONCE;
  static constexpr int MEMBERS = Shape::MEMBERS, STRIDE = Shape::STRIDE, V = Shape::V, U = Shape::U;
  static constexpr int AHEAD = Shape::AHEAD;

  // Those that a lane has in flight.
  struct Rows {
    Row k[U], v[U];
  };

  static __device__ __forceinline__ int place(const Lane& at, int from, int u) {
    return from + u * STRIDE + at.warp % MEMBERS * AT_ONCE + at.row;
  }
  // Rows from slot FIRST on, those below `cached` from the cache.
  template <int FIRST, int COUNT>
  static __device__ __forceinline__ void fetch(const Work& work, const Lane& at, int from, int cached,
                                               Rows& rows) {
    const Cache *const k = B::k_cache(work) + at.d, *const v = B::v_cache(work) + at.d;
#pragma unroll
    for (int u = FIRST; u < FIRST + COUNT; ++u) {
      const int row = place(at, from, u);
      if (at.holds && row < cached) {
        rows.k[u] = load_vector<Cache, 8>(k + B::offset(row));
        rows.v[u] = load_vector<Cache, 8>(v + B::offset(row));
      } else {
        rows.k[u].clear();
        rows.v[u].clear();
      }
    }
  }

  struct State {
    float sum[GC][8], top[GC], weight[GC];
  };
  static __device__ __forceinline__ float score(float dot) { return Shape::capped(warp_join<Add, LANES>(dot)); }
  // Takes the V rows of slots FIRST .. (those with valid[u]) into the running softmax.
  template <int FIRST>
  static __device__ __forceinline__ void take(State& s, const Lane& at, const Scratch& scratch, int head,
                                              const Rows& rows, const bool (&valid)[V]) {
    float p[V][GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      const float4 low = *scratch.query(head + g, at.d), high = *scratch.query(head + g, at.d + 4);
      const float q[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int u = 0; u < V; ++u) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(q[i], rows.k[FIRST + u].get(i), dot);
        p[u][g] = at.holds ? dot : 0.0f;
      }
    }
#pragma unroll
    for (int g = 0; g < GC; ++g)
#pragma unroll
      for (int u = 0; u < V; ++u) {
        const float dot = score(p[u][g]);
        p[u][g] = valid[u] ? dot : -infinity();
      }
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g];
#pragma unroll
      for (int u = 0; u < V; ++u) top = fmaxf(top, p[u][g]);
      const float keep = __expf(s.top[g] - top);
      s.top[g] = top;
      s.weight[g] *= keep;
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
#pragma unroll
      for (int u = 0; u < V; ++u) {
        const float e = __expf(p[u][g] - top);
        s.weight[g] += e;
#pragma unroll
        for (int i = 0; i < 8; ++i) s.sum[g][i] = fmaf(e, rows.v[FIRST + u].get(i), s.sum[g][i]);
      }
    }
  }

  // One go: V rows of each lane, and then their slots are filled again.
  template <int FIRST>
  static __device__ __forceinline__ void go(const Work& work, const Lane& at, const Scratch& scratch, int head,
                                            const Range& range, int base, State& s, Rows& rows) {
    bool valid[V];
#pragma unroll
    for (int u = 0; u < V; ++u) {
      const int row = place(at, base, FIRST + u);
      valid[u] = row < range.to;
      if (T == 1 && row == range.cached && valid[u] && at.holds) {
        Shape::get(scratch.new_row(0, at.d), rows.k[FIRST + u]);
        Shape::get(scratch.new_row(1, at.d), rows.v[FIRST + u]);
      }
    }
    take<FIRST>(s, at, scratch, head, rows, valid);
    if (base + U * STRIDE < range.to) fetch<FIRST, V>(work, at, base + U * STRIDE, range.cached, rows);
  }
  template <int FIRST>
  static __device__ __forceinline__ void round(const Work& work, const Lane& at, const Scratch& scratch,
                                               int head, const Range& range, int base, State& s,
                                               Rows& rows) {
    if constexpr (FIRST < U) {
      if (base + FIRST * STRIDE >= range.to) return;
      go<FIRST>(work, at, scratch, head, range, base, s, rows);
      round<FIRST + V>(work, at, scratch, head, range, base, s, rows);
    }
  }

  // Sums over the rows that a warp has at once, half of the elements given away at each step; `first`
  // becomes the number of the first element that the lane has then, of COUNT.
  template <int COUNT, int OFFSET>
  static __device__ __forceinline__ void join_rows(const float (&x)[COUNT], int lane, float* target,
                                                   int first, bool writes) {
    if constexpr (OFFSET == 32) {
      if (!writes) return;
#pragma unroll
      for (int i = 0; i < COUNT; ++i) target[first + i] = x[i];
    } else if constexpr (COUNT > 1) {
      const bool upper = lane & OFFSET;
      float half[COUNT / 2];
#pragma unroll
      for (int i = 0; i < COUNT / 2; ++i) {
        const float give = upper ? x[i] : x[i + COUNT / 2], keep = upper ? x[i + COUNT / 2] : x[i];
        half[i] = keep + __shfl_xor_sync(0xffffffffu, give, OFFSET);
      }
      join_rows<COUNT / 2, 2 * OFFSET>(half, lane, target, first + (upper ? COUNT / 2 : 0), writes);
    } else {
      const float sum[1] = {x[0] + __shfl_xor_sync(0xffffffffu, x[0], OFFSET)};
      join_rows<1, 2 * OFFSET>(sum, lane, target, first, writes && !(lane & OFFSET));
    }
  }
  static __device__ __forceinline__ void hand_over(const Lane& at, const Scratch& scratch, State& s) {
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g], weight = s.weight[g];
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      const float keep = __expf(s.top[g] - top);
      weight *= keep;
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2)
        weight += __shfl_xor_sync(0xffffffffu, weight, offset);
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
      join_rows<8, LANES>(s.sum[g], at.lane, scratch.sums + (at.warp * GC + g) * D + at.d, 0, at.holds);
      if (at.lane == 0) {
        float* stats = scratch.stats + (at.warp * GC + g) * 2;
        stats[0] = top, stats[1] = weight;
      }
    }
  }

  // All rows of the range, for a warp's heads from `head` on, into the warps' sums; `rows` has the first.
  static __device__ __forceinline__ void attend(const Work& work, const Lane& at, const Scratch& scratch,
                                                int head, const Range& range, bool asks, Rows& rows) {
    State s;
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      s.top[g] = Shape::NONE, s.weight[g] = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] = 0.0f;
    }
#pragma unroll 1
    for (int base = range.from; base < range.to; base += U * STRIDE) {
      if (AHEAD > 0 && asks && at.warp == COMPUTE_WARPS - 1 && base + AHEAD < range.cached)
        Shape::ask_ahead(work, base + AHEAD, least(base + AHEAD + U * STRIDE, range.cached), at.lane);
      round<0>(work, at, scratch, head, range, base, s, rows);
    }
    hand_over(at, scratch, s);
  }
};

}  // namespace mpk
