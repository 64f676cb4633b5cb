// Decode attention of the G query heads of one key head over one chunk of the cache.
//
// A printed body says
//   static constexpr int T, D, G, CHUNK;      tokens a step, head size (8..256, a multiple of 8), ...
//   static constexpr int WINDOW;              0 = none: attends to positions > own - WINDOW
//   static constexpr float scale, soft_cap;   soft_cap 0 = none
//   static constexpr bool split;              partials, or the final result
//   using Cache = mpk::bf16;
//   static __device__ i64 first(const Work&);                      first position of the chunk
//   static __device__ Cache* k_cache(const Work&, i64 position);   rows of D, 16-byte aligned
//   static __device__ Cache* v_cache(const Work&, i64 position);
//   static __device__ float q(const Work&, int t, int g, int d);   elements as they are in memory
//   static __device__ float k(const Work&, int t, int d);
//   static __device__ float v(const Work&, int t, int d);
//   struct q_prologue, k_prologue {
//     static constexpr bool norm; static constexpr float eps;      rms over D, then rotary
//     static __device__ float scale(const Work&, int d);           norm weight
//     static constexpr mpk::Rotary rotary; static constexpr int R; static constexpr float factor;
//     static __device__ const float* inv_freq(const Work&);
//   };
//   static __device__ void store(const Work&, int t, int g, int d, float y);            !split
//   static __device__ float* acc(const Work&, int t, int g);       D floats              split
//   static __device__ float* stats(const Work&, int t, int g);     {top, sum}             split
//
// The chunk that owns a step's position writes its key and value into the cache.
#pragma once
#include "abi.cuh"
#include "reduce.cuh"
#include "rotary.cuh"

namespace mpk {

template <class B>
struct Attention {
  using Cache = typename B::Cache;
  static constexpr bool streams = false;
  static constexpr int T = B::T, D = B::D, G = B::G;
  static_assert(D % 8 == 0 && D >= 8 && D <= 256, "head size is a multiple of 8 up to 256");
  static constexpr int LANES = power_of_two_from(D / 8);  // lanes that share a cache row
  static constexpr int AT_ONCE = 32 / LANES;              // rows a warp reads at once
  static constexpr int GC = least(least(G, 8), 1024 / D); // heads in one pass over the chunk
  static constexpr int U = GC >= 4 ? 2 : 4;               // rounds of loads in flight
  static constexpr int STRIDE = COMPUTE_WARPS * AT_ONCE;
  static constexpr int HALF = COMPUTE_WARPS / 2;
  // Floats of scratch: q rows, new k and v rows, per-warp (top, sum), per-warp sums of half the warps.
  static constexpr int Q = G * D, NEW = 2 * D, STATS = 2 * COMPUTE_WARPS * GC, SUMS = HALF * GC * D;
  static constexpr int scratch_bytes = 4 * (Q + NEW + STATS + SUMS);
  static constexpr int partial_bytes = 0;
  static constexpr float NONE = -1e30f;  // below every score; finite, so that differences are numbers

  using Row = Vector<Cache, 8>;
  struct Rows {
    Row k[U], v[U];
  };

  // One row (a head of q, or k) into shared memory: norm and rotary. One warp.
  template <class Prologue, class Read>
  static __device__ __forceinline__ void prepare_row(const Work& work, i64 position, int lane, float* row,
                                                     float factor, Read read) {
    constexpr int N = ceil_div(D, 32);
    float x[N], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int d = lane + 32 * i;
      x[i] = D % 32 == 0 || d < D ? read(d) : 0.0f;
      sum += x[i] * x[i];
    }
    float norm = 1.0f;
    if constexpr (Prologue::norm) norm = rsqrtf(warp_join<Add>(sum) / D + Prologue::eps);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int d = lane + 32 * i;
      if (D % 32 != 0 && d >= D) continue;
      if constexpr (Prologue::norm) x[i] *= norm * Prologue::scale(work, d);
      row[d] = x[i];
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int d = lane + 32 * i;
      if (D % 32 != 0 && d >= D) continue;
      x[i] = rotated<Prologue::rotary, Prologue::R>(row, d, position, Prologue::inv_freq(work),
                                                    Prologue::factor) * factor;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int d = lane + 32 * i;
      if (D % 32 == 0 || d < D) row[d] = x[i];
    }
  }

  // Key and value of token t: into the cache, and (rounded as there) into rows[0], rows[1].
  static __device__ __forceinline__ void append(const Work& work, int t, int warp, int lane, float* rows) {
    const i64 position = work.position + t;
    // The two warps after those that prepare q, as far as there are any.
    if (warp == G % COMPUTE_WARPS) {
      prepare_row<typename B::k_prologue>(work, position, lane, rows, 1.0f,
                                          [&](int d) { return B::k(work, t, d); });
      __syncwarp();
      keep(B::k_cache(work, position), lane, rows);
    }
    if (warp == (G + 1) % COMPUTE_WARPS) {
      for (int d = lane; d < D; d += 32) rows[D + d] = B::v(work, t, d);
      __syncwarp();
      keep(B::v_cache(work, position), lane, rows + D);
    }
  }
  static __device__ __forceinline__ void keep(Cache* target, int lane, float* row) {
    for (int d = lane; d < D; d += 32) {
      const Cache rounded = convert<Cache>(row[d]);
      target[d] = rounded;
      row[d] = to_float(rounded);
    }
  }

  struct Lane {
    int warp, lane;
    int row;     // which of the rows that the warp reads at once
    int d;       // first of the eight elements
    bool holds;  // whether D has them
  };

  static __device__ __forceinline__ i64 place(const Lane& at, i64 from, int u) {
    return from + u * STRIDE + at.warp * AT_ONCE + at.row;
  }
  static __device__ __forceinline__ void fetch(const Work& work, const Lane& at, i64 from, i64 to, Rows& rows) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const i64 position = place(at, from, u);
      if (at.holds && position < to) {
        rows.k[u] = load_vector<Cache, 8>(B::k_cache(work, position) + at.d);
        rows.v[u] = load_vector<Cache, 8>(B::v_cache(work, position) + at.d);
      } else {
        rows.k[u].clear();
        rows.v[u].clear();
      }
    }
  }

  struct State {
    float q[GC][8], sum[GC][8], top[GC], weight[GC];
  };

  static __device__ __forceinline__ float score(float dot) {
    dot = warp_join<Add, LANES>(dot);
    if constexpr (B::soft_cap > 0.0f) dot = B::soft_cap * tanhf(dot / B::soft_cap);
    return dot;
  }
  // Takes U rows (those with valid[u]) into the running softmax.
  template <int COUNT, class Key, class Value>
  static __device__ __forceinline__ void take(State& s, const bool (&valid)[COUNT], Key key, Value value) {
    float p[COUNT][GC];
#pragma unroll
    for (int u = 0; u < COUNT; ++u) {
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(s.q[g][i], key(u, i), dot);
        dot = score(dot);
        p[u][g] = valid[u] ? dot : -infinity();
      }
    }
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g];
#pragma unroll
      for (int u = 0; u < COUNT; ++u) top = fmaxf(top, p[u][g]);
      const float keep = __expf(s.top[g] - top);
      s.top[g] = top;
      s.weight[g] *= keep;
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
#pragma unroll
      for (int u = 0; u < COUNT; ++u) {
        const float e = __expf(p[u][g] - top);
        s.weight[g] += e;
#pragma unroll
        for (int i = 0; i < 8; ++i) s.sum[g][i] = fmaf(e, value(u, i), s.sum[g][i]);
      }
    }
  }

  // Joins the rows that a warp reads at once.
  static __device__ __forceinline__ void join_warp(State& s) {
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g];
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      const float keep = __expf(s.top[g] - top);
      s.top[g] = top;
      s.weight[g] *= keep;
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2) {
        s.weight[g] += __shfl_xor_sync(0xffffffffu, s.weight[g], offset);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.sum[g][i] += __shfl_xor_sync(0xffffffffu, s.sum[g][i], offset);
      }
    }
  }

  // Joins the warps and writes heads [first, first + GC).
  static __device__ __forceinline__ void join_and_write(const Work& work, const Lane& at, int t, int first,
                                                        State& s, float* stats, float* sums) {
    if (at.lane == 0) {
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        stats[(at.warp * GC + g) * 2] = s.top[g];
        stats[(at.warp * GC + g) * 2 + 1] = s.weight[g];
      }
    }
    compute_sync();
    float total[GC], top[GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      const float* one = stats + ((at.lane % COMPUTE_WARPS) * GC + g) * 2;
      top[g] = warp_join<Larger, COMPUTE_WARPS>(one[0]);
      total[g] = warp_join<Add, COMPUTE_WARPS>(one[1] * __expf(one[0] - top[g]));
      const float keep = __expf(s.top[g] - top[g]);
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
    }
    const bool writes = at.row == 0 && at.holds;
    float* mine = sums + (at.warp % HALF) * GC * D + at.d;
    if (at.warp >= HALF && writes) add<false>(s, mine);
    compute_sync();
    if (at.warp < HALF && writes) add<true>(s, mine);
    compute_sync();
    for (int at_d = threadIdx.x; at_d < GC * D; at_d += COMPUTE_THREADS) {
      const int g = at_d / D, d = at_d % D;
      if (first + g >= G) continue;
      float y = 0.0f;
#pragma unroll
      for (int w = 0; w < HALF; ++w) y += sums[(w * GC) * D + at_d];
      if constexpr (B::split) {
        store(B::acc(work, t, first + g) + d, y);
      } else {
        float whole = 0.0f;
#pragma unroll
        for (int i = 0; i < GC; ++i) whole = i == g ? total[i] : whole;
        B::store(work, t, first + g, d, y / whole);
      }
    }
    if constexpr (B::split) {
#pragma unroll
      for (int g = 0; g < GC; ++g)
        if (threadIdx.x == g && first + g < G) {
          float* target = B::stats(work, t, first + g);
          target[0] = total[g] > 0.0f || total[g] != total[g] ? top[g] : -infinity();
          target[1] = total[g];
        }
    }
  }
  template <bool ADD>
  static __device__ __forceinline__ void add(const State& s, float* mine) {
#pragma unroll
    for (int g = 0; g < GC; ++g)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& cell = mine[g * D + i];
        cell = ADD ? cell + s.sum[g][i] : s.sum[g][i];
      }
  }

  static __device__ __forceinline__ void write_empty(const Work& work, int t) {
    for (int at = threadIdx.x; at < G * D; at += COMPUTE_THREADS) {
      if constexpr (B::split) {
        B::acc(work, t, at / D)[at % D] = 0.0f;
        if (at % D == 0) {
          B::stats(work, t, at / D)[0] = -infinity();
          B::stats(work, t, at / D)[1] = 0.0f;
        }
      } else {
        B::store(work, t, at / D, at % D, 0.0f);
      }
    }
  }

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* q = reinterpret_cast<float*>(scratch);
    float* fresh = q + Q;
    float* stats = fresh + NEW;
    float* sums = stats + STATS;
    Lane at;
    at.warp = threadIdx.x / 32, at.lane = threadIdx.x % 32;
    at.row = at.lane / LANES, at.d = at.lane % LANES * 8, at.holds = at.d < D;
    const i64 begin = B::first(work), end = begin + B::CHUNK;
    if constexpr (T > 1) {
      for (int t = 0; t < T; ++t) {
        const i64 position = work.position + t;
        if (position < begin || position >= end) continue;
        append(work, t, at.warp, at.lane, fresh);
        compute_sync();
      }
    }
    for (int t = 0; t < T; ++t) token(work, at, t, begin, end, q, fresh, stats, sums);
  }

  static __device__ __forceinline__ void token(const Work& work, const Lane& at, int t, i64 begin, i64 end,
                                               float* q, float* fresh, float* stats, float* sums) {
    // With one token its own key and value come from shared memory: the cache holds those before it.
    const i64 own = work.position + t;
    const bool owns = T == 1 && own >= begin && own < end;
    i64 from = begin;
    if (B::WINDOW > 0 && own - B::WINDOW + 1 > from) from = own - B::WINDOW + 1;
    i64 to = T == 1 ? own : own + 1;
    if (to > end) to = end;
    if (from >= to && !owns) {
      write_empty(work, t);
      return;
    }
    Rows rows;
    fetch(work, at, from, to, rows);
    for (int g = at.warp; g < G; g += COMPUTE_WARPS)
      prepare_row<typename B::q_prologue>(work, own, at.lane, q + g * D, B::scale,
                                          [&](int d) { return B::q(work, t, g, d); });
    if (owns) append(work, t, at.warp, at.lane, fresh);
    compute_sync();
#pragma unroll 1
    for (int first = 0; first < G; first += GC) {
      if (first > 0) fetch(work, at, from, to, rows);
      State s;
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        s.top[g] = NONE, s.weight[g] = 0.0f;
        const int head = least(first + g, G - 1);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          s.q[g][i] = at.holds ? q[head * D + at.d + i] : 0.0f;
          s.sum[g][i] = 0.0f;
        }
      }
#pragma unroll 1
      for (i64 base = from; base < to; base += U * STRIDE) {
        bool valid[U];
#pragma unroll
        for (int u = 0; u < U; ++u) valid[u] = place(at, base, u) < to;
        take(s, valid, [&](int u, int i) { return rows.k[u].get(i); },
             [&](int u, int i) { return rows.v[u].get(i); });
        if (base + U * STRIDE < to) fetch(work, at, base + U * STRIDE, to, rows);
      }
      if (owns && at.warp == 0) {
        const bool valid[1] = {at.row == 0};
        const int d = at.holds ? at.d : 0;
        take(s, valid, [&](int, int i) { return at.holds ? fresh[d + i] : 0.0f; },
             [&](int, int i) { return at.holds ? fresh[D + d + i] : 0.0f; });
      }
      join_warp(s);
      join_and_write(work, at, t, first, s, stats, sums);
      compute_sync();
    }
  }
};

}  // namespace mpk
