// How a task of attention is shared by lanes: which heads a warp has, which rows and elements a lane, what
// lies where in shared memory, which rows of the cache a token attends to and how they are asked for ahead.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

#ifndef MPK_CACHE_AHEAD
#define MPK_CACHE_AHEAD 65536  // bytes of keys and values that a task asks for before it reads them
#endif

namespace mpk {

// B: a printed body of attention.cuh.
template <class B>
struct AttentionShape {
  using Cache = typename B::Cache;
  static constexpr int T = B::T, D = B::D, G = B::G;
  static_assert(D % 8 == 0 && D >= 8 && D <= 256, "head size is a multiple of 8 up to 256");
  static constexpr int LANES = power_of_two_from(D / 8);  // lanes that share a row
  static constexpr int AT_ONCE = 32 / LANES;              // rows a warp has at once
  // Heads are shared out to groups of warps, so that the sums of a warp's heads stay in registers;
  // each group goes over all rows.
  static constexpr int MOST = least(4, 512 / D);
  static constexpr int GROUPS = least(COMPUTE_WARPS, power_of_two_from(ceil_div(G, MOST)));
  static constexpr int GC = least(MOST, ceil_div(G, GROUPS));
  static constexpr int MEMBERS = COMPUTE_WARPS / GROUPS;
  static constexpr int STRIDE = MEMBERS * AT_ONCE;     // rows of a group at once
  static constexpr int V = 2;                          // of a lane, in one go
  static constexpr int U = sizeof(Cache) > 2 ? V : GC > 2 ? 2 * V : 3 * V;  // of a lane, in flight
  static constexpr int AHEAD = MPK_CACHE_AHEAD / (2 * D * int(sizeof(Cache)));  // rows
  // Whether rows of the cache go through tensor cores.
#ifdef MPK_ATTENTION_SHUFFLES
  static constexpr bool MULTIPLIES = false;
#else
  static constexpr bool MULTIPLIES = T == 1 && is_same<Cache, bf16> && (D == 64 || D == 128) && G <= 4;
#endif
  // Floats of scratch: q rows, k and v as in the cache, per-warp (top, sum), per-warp sums (before
  // that: rows whose pairs lie in several lanes).
  static constexpr int QUERY = 8 * LANES;
  static constexpr int Q = MULTIPLIES ? G * (D + 32) : ceil_div(G, GC * GROUPS) * GC * GROUPS * QUERY;
  static constexpr int NEW = 2 * QUERY;
  static constexpr int STATS = 2 * COMPUTE_WARPS * GC, SUMS = COMPUTE_WARPS * most(GC * D, 256);
  static constexpr int scratch_bytes = 4 * (Q + NEW + STATS + SUMS);
  static constexpr float NONE = -1e30f;  // below every score; finite, so that differences are numbers

  using Row = Vector<Cache, 8>;
  struct Lane {
    int thread, warp, lane;
    int row;     // which of the rows that the warp has at once
    int d;       // first of the eight elements
    bool holds;  // whether D has them

    __device__ __forceinline__ explicit Lane(int thread)
        : thread(thread), warp(thread / 32), lane(thread % 32), row(lane / LANES), d(lane % LANES * 8),
          holds(d < D) {}
  };
  struct Scratch {
    float *q, *stats, *sums;
    u32* fresh;  // k, v of the step as vectors of the cache
    __device__ explicit Scratch(char* p) {
      q = reinterpret_cast<float*>(p);
      fresh = reinterpret_cast<u32*>(q + Q);
      stats = q + Q + NEW;
      sums = stats + STATS;
    }
    // Element d (a multiple of 4) of head g's query: vectors of 4 such that 8 lanes that read one
    // each, 8 elements apart, meet no bank twice.
    __device__ __forceinline__ float4* query(int g, int d) const {
      return reinterpret_cast<float4*>(q + g * QUERY) + (d / 4 % 2) * LANES + d / 8;
    }
    __device__ __forceinline__ u32* new_row(int which, int d) const {
      return fresh + which * QUERY + d / 8 * (Row::BYTES / 4);
    }
  };

  static __device__ __forceinline__ Row packed(const float (&x)[8]) {
    Row row;
    if constexpr (sizeof(Cache) == 4) {
#pragma unroll
      for (int i = 0; i < 8; ++i) row.word[i] = __float_as_uint(x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        row.word[i] = u32(convert<Cache>(x[2 * i]).bits) | u32(convert<Cache>(x[2 * i + 1]).bits) << 16;
    }
    return row;
  }
  static __device__ __forceinline__ void put(u32* target, const Row& row) {
#pragma unroll
    for (int i = 0; i < Row::BYTES / 16; ++i)
      reinterpret_cast<uint4*>(target)[i] =
          make_uint4(row.word[4 * i], row.word[4 * i + 1], row.word[4 * i + 2], row.word[4 * i + 3]);
  }
  static __device__ __forceinline__ void get(const u32* source, Row& row) {
#pragma unroll
    for (int i = 0; i < Row::BYTES / 16; ++i) {
      const uint4 word = reinterpret_cast<const uint4*>(source)[i];
      row.word[4 * i] = word.x, row.word[4 * i + 1] = word.y;
      row.word[4 * i + 2] = word.z, row.word[4 * i + 3] = word.w;
    }
  }

  struct Range {
    int from, to;  // the rows that a token attends to
    int cached;    // those below are in the cache, the rest in shared memory
  };
  static __device__ __forceinline__ Range range_of(const Work& work, int t) {
    const i64 own = work.position + t;
    Range range{0, B::rows_before(work, own + 1), 0};
    if (B::WINDOW > 0 && own + 1 > B::WINDOW) range.from = B::rows_before(work, own + 1 - B::WINDOW);
    range.cached = T == 1 ? B::rows_before(work, own) : range.to;
    return range;
  }

  // Asks for rows [from, to) into L2; a warp.
  static __device__ __forceinline__ void ask_ahead(const Work& work, int from, int to, int lane) {
#pragma unroll 1
    for (int run = from / B::RUN + lane; run * B::RUN < to; run += 32) {
      const int first = most(run * B::RUN, from), last = least(run * B::RUN + B::RUN, to);
      const int bytes = (last - first) * (D * int(sizeof(Cache)));
      fetch_to_l2(B::k_cache(work) + B::offset(first), bytes);
      fetch_to_l2(B::v_cache(work) + B::offset(first), bytes);
    }
  }
  static __device__ __forceinline__ float capped(float dot) {
    if constexpr (B::soft_cap > 0.0f) dot = B::soft_cap * tanhf(dot / B::soft_cap);
    return dot;
  }
};

}  // namespace mpk
