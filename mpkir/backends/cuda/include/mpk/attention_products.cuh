// A task's rows of a bf16 cache on tensor cores: the chain from q to the sums in fifty instructions a
// warp for 16 rows, where dots by shuffles take three hundred.
//
// Scores are q * K^T: the 16 rows of A are up to 8 heads, and what rounding these to bf16 lost; the 8
// columns of B are cache rows. A lane has a head and two rows of each 8 then, which is how B lies of
// V^T * P^T; there the 16 rows of A are elements of values, 8 apart, so that a lane has what it loaded
// as 16 bytes. The order of elements in a dot is free, so keys are taken as they are loaded, too.
//
// A warp has every eighth row: 16 of the 128 in a go. Its numbers of them are i = 0 .. 15.
#pragma once
#include "abi.cuh"
#include "attention_shape.cuh"
#include "mma.cuh"
#include "reduce.cuh"

namespace mpk {

// B: a printed body of attention.cuh.
template <class B>
struct AttentionProducts {
  using Shape = AttentionShape<B>;
  using Lane = typename Shape::Lane;
  using Scratch = typename Shape::Scratch;
  using Range = typename Shape::Range;
  using Row = Vector<bf16, 8>;
  static constexpr int D = B::D, G = B::G;
  static constexpr int ROWS = 16 * COMPUTE_WARPS;       // of a go
  static constexpr int KEYS = D / 32, VALUES = D / 64;  // vectors of a lane for a row
  static constexpr int PITCH = D + 4;                   // words of a row of q, so that heads differ in banks
  static_assert(D % 64 == 0 && G <= 8, "whole fragments");

  struct Rows {
    Row k[2][KEYS], v[VALUES][4];
  };
  static __device__ __forceinline__ int key_row(const Lane& at, int base, int n) {
    return base + 8 * (8 * n + at.lane / 4) + at.warp;
  }
  static __device__ __forceinline__ int value_row(const Lane& at, int base, int i) {
    return base + 8 * (2 * (at.lane % 4) + i % 2 + i / 2 * 8) + at.warp;
  }
  static __device__ __forceinline__ int key_element(const Lane& at, int j) { return 32 * j + at.lane % 4 * 8; }
  static __device__ __forceinline__ int value_element(const Lane& at, int j) { return 64 * j + at.lane / 4 * 8; }

  // Where there is no row a lane takes the last, which has no weight, or keeps what it has. Source: CachedRows
  // or StagedRows of attention_stages.cuh.
  template <class Source>
  static __device__ __forceinline__ void fetch_keys(const Source& source, const Lane& at, int base, int cached,
                                                    Rows& rows) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (base + 64 * n + at.warp >= cached) break;
      const auto* const k = source.key(least(key_row(at, base, n), cached - 1));
#pragma unroll
      for (int j = 0; j < KEYS; ++j) rows.k[n][j] = Source::get(k + 32 * j);
    }
  }
  template <class Source>
  static __device__ __forceinline__ void fetch_values(const Source& source, const Lane& at, int base, int cached,
                                                      Rows& rows) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (base + 64 * n + at.warp >= cached) break;
#pragma unroll
      for (int i = 2 * n; i < 2 * n + 2; ++i) {
        const auto* const v = source.value(least(value_row(at, base, i), cached - 1));
#pragma unroll
        for (int j = 0; j < VALUES; ++j) rows.v[j][i] = Source::get(v + 64 * j);
      }
    }
  }
  // The first rows.
  template <class Source>
  static __device__ __forceinline__ void fetch(const Work& work, Source& source, const Lane& at, int base, int cached,
                                               Rows& rows) {
    source.open(work, key_element(at, 0), value_element(at, 0));
    source.begin(base, cached);
    fetch_keys(source, at, base, cached, rows);
    fetch_values(source, at, base, cached, rows);
    source.end();
  }
  // The step's own row, which is not in the cache yet.
  static __device__ __forceinline__ void take_own(const Lane& at, const Scratch& scratch, int base, int own,
                                                  Rows& rows) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
      if (key_row(at, base, n) == own) {
#pragma unroll
        for (int j = 0; j < KEYS; ++j) Shape::get(scratch.new_row(0, key_element(at, j)), rows.k[n][j]);
      }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (value_row(at, base, i) == own) {
#pragma unroll
        for (int j = 0; j < VALUES; ++j) Shape::get(scratch.new_row(1, value_element(at, j)), rows.v[j][i]);
      }
  }

  // ---- q ----

  // Two fragments of row `head`: each pair of elements, rounded, and what that lost.
  static __device__ __forceinline__ uint4* query(const Scratch& scratch, int head, int d) {
    return reinterpret_cast<uint4*>(scratch.q + head * PITCH + d);
  }
  // What rounding two numbers to a pair lost.
  static __device__ __forceinline__ u32 left_over(u32 pair, float low, float high) {
    return bf16_pair(low - __uint_as_float(pair << 16), high - __uint_as_float(pair & 0xffff0000u));
  }
  // Eight elements from d on: rounded, and what that lost.
  static __device__ __forceinline__ void put_query(const Scratch& scratch, int head, int d, const float (&y)[8]) {
    u32 high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = bf16_pair(y[2 * i], y[2 * i + 1]);
      low[i] = left_over(high[i], y[2 * i], y[2 * i + 1]);
    }
    uint4* const place = query(scratch, head, d);
    place[0] = make_uint4(high[0], low[0], high[1], low[1]);
    place[1] = make_uint4(high[2], low[2], high[3], low[3]);
  }

  // ---- products ----

  // Scores of head lane / 4 at rows i = 8 n + 2 (lane % 4) + {0, 1}.
  static __device__ __forceinline__ void scores(const Lane& at, const Scratch& scratch, const Rows& rows,
                                                bool both, float (&s)[2][2]) {
    const int head = at.lane / 4;
    constexpr int CHAINS = D == 64 ? 2 : 1;  // of products that wait for each other; no registers for more
    float sum[2][CHAINS][4] = {};
#pragma unroll
    for (int j = 0; j < KEYS; ++j) {
      uint4 q[2] = {};
      if (head < G) {
        q[0] = query(scratch, head, key_element(at, j))[0];
        q[1] = query(scratch, head, key_element(at, j))[1];
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (n == 1 && !both) break;
        const u32(&k)[4] = rows.k[n][j].word;
#pragma unroll
        for (int i = 0; i < 2; ++i)
          add_product(sum[n][i % CHAINS], q[i].x, q[i].y, q[i].z, q[i].w, k[2 * i], k[2 * i + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s[n][e] = sum[n][0][e] + sum[n][0][2 + e];
#pragma unroll
        for (int i = 1; i < CHAINS; ++i) s[n][e] += sum[n][i][e] + sum[n][i][2 + e];
      }
  }

  static __device__ __forceinline__ u32 halves(u32 low, u32 high, bool upper) {
    return upper ? low >> 16 | (high & 0xffff0000u) : (low & 0xffffu) | high << 16;
  }
  // Adds p * v: heads 2 (lane % 4) + {0, 1} at elements 64 j + 8 (lane / 4) + 2 f + {0, 1}, of which a
  // fragment's sums are {first element: both heads, second: both heads}.
  using Sums = float[VALUES][4][4];
  static __device__ __forceinline__ void weigh(const float (&p)[2][2], const Rows& rows, Sums& sum) {
    const u32 high[2] = {bf16_pair(p[0][0], p[0][1]), bf16_pair(p[1][0], p[1][1])};
    const u32 low[2] = {left_over(high[0], p[0][0], p[0][1]), left_over(high[1], p[1][0], p[1][1])};
#pragma unroll
    for (int j = 0; j < VALUES; ++j)
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        u32 a[2][2];  // by rows 8 apart, by element
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            a[n][e] = halves(rows.v[j][2 * n].word[f], rows.v[j][2 * n + 1].word[f], e);
        add_product(sum[j][f], a[0][0], a[0][1], a[1][0], a[1][1], high[0], high[1]);
        add_product(sum[j][f], a[0][0], a[0][1], a[1][0], a[1][1], low[0], low[1]);
      }
  }

  // All rows of the range into the warps' sums; `rows` has the first.
  template <class Source>
  static __device__ __forceinline__ void attend(const Work& work, const Lane& at, const Scratch& scratch,
                                                const Range& range, Source& source, Rows& rows) {
    float top = Shape::NONE, weight = 0.0f;
    Sums sum = {};
#pragma unroll 1
    for (int base = range.from; base < range.to; base += ROWS) {
      if (!Source::staged && Shape::AHEAD > 0 && at.warp == base / ROWS % COMPUTE_WARPS && base + Shape::AHEAD < range.cached)
        Shape::ask_ahead(work, base + Shape::AHEAD, least(base + Shape::AHEAD + ROWS, range.cached), at.lane);
      const bool more = base + ROWS < range.to;
      if (range.cached < range.to && range.cached >= base && (range.cached - base) % 8 == at.warp)
        take_own(at, scratch, base, range.cached, rows);
      float s[2][2];
      scores(at, scratch, rows, base + 64 + at.warp < range.to, s);
      if (more) {
        source.begin(base + ROWS, range.cached);
        fetch_keys(source, at, base + ROWS, range.cached, rows);
      }
      float largest = top;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = base + 8 * (8 * n + at.lane % 4 * 2 + e) + at.warp;
          s[n][e] = row < range.to ? Shape::capped(s[n][e]) : -infinity();
          largest = fmaxf(largest, s[n][e]);
        }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      if (base > range.from) {
        const float keep = exponential(top - largest);
        weight *= keep;
        const float kept[2] = {__shfl_sync(0xffffffffu, keep, at.lane % 4 * 8),
                               __shfl_sync(0xffffffffu, keep, at.lane % 4 * 8 + 4)};
#pragma unroll
        for (int j = 0; j < VALUES; ++j)
#pragma unroll
          for (int f = 0; f < 4; ++f)
#pragma unroll
            for (int c = 0; c < 4; ++c) sum[j][f][c] *= kept[c % 2];
      }
      top = largest;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          s[n][e] = exponential(s[n][e] - top);
          weight += s[n][e];
        }
      weigh(s, rows, sum);
      if (more) {
        fetch_values(source, at, base + ROWS, range.cached, rows);
        source.end();
      }
    }
    weight += __shfl_xor_sync(0xffffffffu, weight, 1);
    weight += __shfl_xor_sync(0xffffffffu, weight, 2);
    if (at.lane % 4 == 0 && at.lane / 4 < G) {
      float* stats = scratch.stats + (at.warp * G + at.lane / 4) * 2;
      stats[0] = top, stats[1] = weight;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int head = at.lane % 4 * 2 + c;
      if (head >= G) continue;
      float* const target = scratch.sums + (at.warp * G + head) * D + at.lane / 4 * 8;
#pragma unroll
      for (int j = 0; j < VALUES; ++j)
#pragma unroll
        for (int f = 0; f < 4; f += 2) {
          float4 y;
          y.x = sum[j][f][c], y.y = sum[j][f][2 + c], y.z = sum[j][f + 1][c], y.w = sum[j][f + 1][2 + c];
          *reinterpret_cast<float4*>(target + 64 * j + 2 * f) = y;
        }
    }
  }
};

}  // namespace mpk
