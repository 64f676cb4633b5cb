// Attention of a step's queries over caches: whole, in chunks, and the joining of chunks.
//
// Queries, keys and values of the step are token-major [B, T, heads, D], caches head-major
// [B, KV, C, D]. Each pass over keys and values serves all query heads that share them.
#pragma once

#include "mpk/dot.hpp"
#include "mpk/norms.hpp"

namespace mpk {

// scores[g * C + j] = scale * q[g] . keys[j], capped; queries are prepared for W.
template <int G, long D, class W>
inline void score_rows(float* scores, long room, const float* queries, const W* keys, long stride,
                       long n, float scale, float cap) {
  const float* q[G];
  for (int g = 0; g < G; ++g) q[g] = queries + g * D;
  const auto rows = [&](auto count, long j) {
    constexpr int R = decltype(count)::value;
    const W* k[R];
    for (int r = 0; r < R; ++r) k[r] = keys + (j + r) * stride;
    float sum[R][G];
    dots<R, G, D>(k, q, sum);
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < G; ++g) {
        const float score = scale * sum[r][g];
        scores[g * room + j + r] = cap > 0 ? cap * std::tanh(score / cap) : score;
      }
  };
  long j = 0;
  for (; j + 4 <= n; j += 4) rows(std::integral_constant<int, 4>{}, j);
  for (; j < n; ++j) rows(std::integral_constant<int, 1>{}, j);
}

// acc[g * D + d] = sum_j weights[g * room + j] * values[j][d]
template <int G, long D, class W>
inline void weigh_rows(float* acc, const float* weights, long room, const W* values, long stride, long n) {
  constexpr int vectors = Block<W>::VECTORS, width = Block<W>::WIDTH;
  long d = 0;
  for (; d + width <= D; d += width) {
    f32x16 sum[G][vectors] = {};
    for (long j = 0; j < n; ++j) {
      f32x16 v[vectors];
      Block<W>::load(values + j * stride + d, v);
#pragma GCC unroll 16
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 2
        for (int i = 0; i < vectors; ++i) sum[g][i] += weights[g * room + j] * v[i];
    }
    for (int g = 0; g < G; ++g) {
      float placed[16 * vectors];
      for (int i = 0; i < vectors; ++i) store_vector(placed + 16 * i, sum[g][i]);
      for (int i = 0; i < width; ++i) acc[g * D + d + i] = placed[Block<W>::place(i)];
    }
  }
  for (; d < D; ++d)
    for (int g = 0; g < G; ++g) {
      float sum = 0;
      for (long j = 0; j < n; ++j) sum += weights[g * room + j] * float(widen(values[j * stride + d]));
      acc[g * D + d] = sum;
    }
}

// Query heads served by one pass: few enough for their sums to stay in registers.
constexpr int shared_heads(int group) {
  for (int g = 4; g > 1; --g)
    if (group % g == 0) return g;
  return 1;
}

// Floats of scratch for `attend`.
template <long D, long ROOM>
inline constexpr long attention_work = 4 * (2 * D + ROOM);

// One pass: queries q[g] (prepared) over rows [0, n) of keys and values; finish(g, top, sum, acc).
template <int G, long D, long ROOM, class W, class Finish>
inline void attend(float* work, const W* keys, const W* values, long stride, long n, float scale,
                   float cap, Finish&& finish) {
  float* const queries = work;
  float* const acc = work + G * D;
  float* const scores = acc + G * D;
  score_rows<G, D>(scores, ROOM, queries, keys, stride, n, scale, cap);
  Exponentials found[G];
  for (int g = 0; g < G; ++g) found[g] = exponentials(scores + g * ROOM, n);
  weigh_rows<G, D>(acc, scores, ROOM, values, stride, n);
  for (int g = 0; g < G; ++g) finish(g, found[g].top, found[g].sum, acc + g * D);
}

// Puts the step's rows of keys or values where their positions fall in this tile of the cache, whose
// row 0 is row `base` of the whole. Where the result is not the cache itself, the rest is copied.
// The rows are [B, T, heads, D], or, HEAD_MAJOR, [B, heads, T, D].
template <bool HEAD_MAJOR, class Out, class Cache, class New, class Position>
inline void append_rows(const Out& out, const Cache& cache, const New& fresh, const Position& position,
                        long base) {
  long count[4];
  common_extent(count, out);
  if (static_cast<const void*>(out.data) != cache.data)
    for_rows(count, [&](const long(&index)[4]) {
      const long from = cache.row(index), to = out.row(index);
      for (long d = 0; d < count[3]; ++d) out.put(to + d * Out::step, cache.get(from + d * Cache::step));
    });
  for (long t = 0; t < fresh.extent(HEAD_MAJOR ? 2 : 1); ++t) {
    const long row = long(position.get(t * Position::step)) - base;
    if (row < 0 || row >= count[2]) continue;
    for (long b = 0; b < count[0]; ++b)
      for (long h = 0; h < count[1]; ++h) {
        const long source[4] = {b, HEAD_MAJOR ? h : t, HEAD_MAJOR ? t : h, 0};
        const long target[4] = {b, h, row, 0};
        const long from = fresh.row(source), to = out.row(target);
        for (long d = 0; d < count[3]; ++d) out.put(to + d * Out::step, fresh.get(from + d * New::step));
      }
  }
}

// What whole and split attention share: rows [low, high) of the tile [B, KV, rows, D] that the query (b, t)
// sees, for every (b, t, first query head); finish(b, t, head, top, sum, acc).
// Queries that see nothing give (-inf, 0, zeros).
template <long WINDOW, class Q, class K, class V, class Position, class Finish>
inline void attend_tile(float* work, const Q& q, const K& keys, const V& values,
                        const Position& position, float scale, float cap, Finish&& finish) {
  using W = typename K::element;
  static_assert(std::is_same_v<W, typename V::element> && K::stride(2) == V::stride(2));
  static_assert(K::has_rows && V::has_rows);
  constexpr long D = Q::box::last;
  constexpr int GROUP = int(Q::box::at[2] / K::box::at[1]), G = shared_heads(GROUP);
  const long rows = keys.extent(2);
  for (long b = 0; b < q.extent(0); ++b)
    for (long t = 0; t < q.extent(1); ++t) {
      const long at = long(position.get(t * Position::step));
      const long high = at + 1 < rows ? at + 1 : rows;
      const long low = WINDOW > 0 && at - WINDOW + 1 > 0 ? at - WINDOW + 1 : 0;
      for (long h = 0; h < q.extent(2); h += G) {
        const long head[4] = {b, h / GROUP, 0, 0};
        const W* const k = keys.data + keys.row(head) + low * K::stride(2);
        const W* const v = values.data + values.row(head) + low * V::stride(2);
        for (int g = 0; g < G; ++g) {
          const long source[4] = {b, t, h + g, 0};
          prepare<W, D, Q::step>(work + g * D, q.data + q.row(source));
        }
        attend<G, D, K::box::at[2]>(work, k, v, K::stride(2), high - low, scale, cap,
                                    [&](int g, float top, float sum, const float* acc) {
                                      finish(b, t, h + g, top, sum, acc);
                                    });
      }
    }
}

// WINDOW, cap: 0 = none. work: attention_work<D, C> floats.
template <long WINDOW, class Out, class KOut, class VOut, class Q, class K, class V, class KCache,
          class VCache, class Position>
inline void attention(float* work, const Out& out, const KOut& k_out, const VOut& v_out, const Q& q,
                      const K& k, const V& v, const KCache& k_cache, const VCache& v_cache,
                      const Position& position, float scale, float cap) {
  append_rows<false>(k_out, k_cache, k, position, 0);
  append_rows<false>(v_out, v_cache, v, position, 0);
  attend_tile<WINDOW>(
      work, q, k_out, v_out, position, scale, cap,
      [&](long b, long t, long h, float, float sum, const float* acc) {
        const long index[4] = {b, t, h, 0};
        const long to = out.row(index);
        const float share = 1.0f / sum;
        for (long d = 0; d < Out::box::last; ++d) out.put(to + d * Out::step, acc[d] * share);
      });
}

// Puts the step's rows [B, T, KV, D] where their positions fall in this tile of a cache in blocks,
// [B, KV, R, S, P, D]: row (r, s, p) is of position (r * CHUNKS + origin + s) * P + p. Where the result is
// not the cache itself, the rest is copied.
template <long CHUNKS, class Out, class Cache, class New, class Position>
inline void append_blocks(const Out& out, const Cache& cache, const New& fresh, const Position& position,
                          long origin) {
  constexpr long R = Out::box::at[2], S = Out::box::at[3], P = Out::box::at[4], D = Out::box::last;
  long count[6];
  common_extent(count, out);
  if (static_cast<const void*>(out.data) != cache.data)
    for_rows(count, [&](const long(&index)[6]) {
      const long from = cache.row(index), to = out.row(index);
      for (long d = 0; d < D; ++d) out.put(to + d * Out::step, cache.get(from + d * Cache::step));
    });
  for (long t = 0; t < fresh.extent(1); ++t) {
    const long at = long(position.get(t * Position::step));
    const long round = at / P / CHUNKS, chunk = at / P % CHUNKS - origin;
    if (at < 0 || round >= R || chunk < 0 || chunk >= S) continue;
    for (long b = 0; b < count[0]; ++b)
      for (long h = 0; h < count[1]; ++h) {
        const long source[4] = {b, t, h, 0};
        const long target[6] = {b, h, round, chunk, at % P, 0};
        const long from = fresh.row(source), to = out.row(target);
        for (long d = 0; d < D; ++d) out.put(to + d * Out::step, fresh.get(from + d * New::step));
      }
  }
}

// The tile's first chunk is number `origin` of CHUNKS; acc: [B, T, H, S, D], stats: [B, T, H, S, 2]. Blocks
// of a chunk are joined as they come, as flash attention does. An empty chunk gives (0, -inf, 0).
// work: attention_work<D, P> floats.
template <long CHUNKS, long WINDOW, class Acc, class Stats, class KOut, class VOut, class Q, class K,
          class V, class KCache, class VCache, class Position>
inline void attention_split(float* work, const Acc& acc_out, const Stats& stats, const KOut& k_out,
                            const VOut& v_out, const Q& q, const K& k, const V& v, const KCache& k_cache,
                            const VCache& v_cache, const Position& position, long origin, float scale,
                            float cap) {
  using W = typename KOut::element;
  static_assert(std::is_same_v<W, typename VOut::element> && KOut::stride(4) == VOut::stride(4));
  static_assert(KOut::has_rows && VOut::has_rows);
  constexpr long R = KOut::box::at[2], P = KOut::box::at[4], D = Q::box::last;
  constexpr int GROUP = int(Q::box::at[2] / KOut::box::at[1]), G = shared_heads(GROUP);
  append_blocks<CHUNKS>(k_out, k_cache, k, position, origin);
  append_blocks<CHUNKS>(v_out, v_cache, v, position, origin);
  for (long b = 0; b < q.extent(0); ++b)
    for (long t = 0; t < q.extent(1); ++t)
      for (long h = 0; h < q.extent(2); h += G) {
        const long own = long(position.get(t * Position::step));
        const long first = WINDOW > 0 && own - WINDOW + 1 > 0 ? own - WINDOW + 1 : 0;
        for (int g = 0; g < G; ++g) {
          const long source[4] = {b, t, h + g, 0};
          prepare<W, D, Q::step>(work + g * D, q.data + q.row(source));
        }
        for (long s = 0; s < k_out.extent(3); ++s) {
          float top[G], sum[G], total[G][D] = {};
          for (int g = 0; g < G; ++g) top[g] = -INFINITY, sum[g] = 0;
          for (long r = 0; r < R; ++r) {
            const long base = (r * CHUNKS + origin + s) * P;
            const long low = first > base ? first - base : 0, high = own + 1 - base < P ? own + 1 - base : P;
            if (low >= high) continue;
            const long place[6] = {b, h / GROUP, r, s, 0, 0};
            const W* const keys = k_out.data + k_out.row(place) + low * KOut::stride(4);
            const W* const values = v_out.data + v_out.row(place) + low * VOut::stride(4);
            attend<G, D, P>(work, keys, values, KOut::stride(4), high - low, scale, cap,
                            [&](int g, float block_top, float block_sum, const float* acc) {
                              const float most = block_top > top[g] ? block_top : top[g];
                              const float old = exp(top[g] - most), now = exp(block_top - most);
                              top[g] = most, sum[g] = sum[g] * old + block_sum * now;
                              for (long d = 0; d < D; ++d) total[g][d] = total[g][d] * old + acc[d] * now;
                            });
          }
          for (int g = 0; g < G; ++g) {
            const long index[5] = {b, t, h + g, s, 0};
            const long to = acc_out.row(index), at = stats.row(index);
            for (long d = 0; d < D; ++d) acc_out.put(to + d * Acc::step, total[g][d]);
            stats.put(at, top[g]);
            stats.put(at + Stats::step, sum[g]);
          }
        }
      }
}

// out[b, t, h] = sum_s acc[b, t, h, s] * w_s / sum_s sum_s * w_s, where w_s = exp(top_s - top)
// over the chunks that begin at or before the step's last position, chunk s at s * BLOCK.
template <long BLOCK, class Out, class Acc, class Stats, class Position>
inline void attention_merge(const Out& out, const Acc& acc, const Stats& stats, const Position& position) {
  constexpr long MOST = Acc::box::at[3], D = Acc::box::last;
  const long last = long(position.get((Position::box::last - 1) * Position::step));
  const long S = last / BLOCK + 1 < MOST ? last / BLOCK + 1 : MOST;
  long count[4];
  common_extent(count, out);
  for_rows(count, [&](const long(&index)[4]) {
    const long first[5] = {index[0], index[1], index[2], 0, 0};
    const long from = acc.row(first), stat = stats.row(first), to = out.row(index);
    float top = -INFINITY, sum = 0, total[D] = {};
    for (long s = 0; s < S; ++s) {
      const float here = stats.get(stat + s * Stats::stride(3));
      top = here > top ? here : top;
    }
    for (long s = 0; s < S; ++s) {
      const long at = stat + s * Stats::stride(3);
      if (stats.get(at + Stats::step) == 0.0f) continue;
      const float weight = exp(stats.get(at) - top);
      sum += weight * stats.get(at + Stats::step);
      for (long d = 0; d < D; ++d) total[d] += weight * acc.get(from + s * Acc::stride(3) + d * Acc::step);
    }
    const float share = 1.0f / sum;
    for (long d = 0; d < count[3]; ++d) out.put(to + d * Out::step, total[d] * share);
  });
}

// Head-major, over all rows that the mask allows: a bool says which, a float is added to the score.
// work: attention_work<D, L> floats. A query that may see nothing gives NaN.
template <bool CAUSAL, class Out, class Q, class K, class V, class Mask>
inline void sdpa(float* work, const Out& out, const Q& q, const K& k, const V& v, const Mask& mask,
                 float scale) {
  using W = typename K::element;
  constexpr long D = Q::box::last, L = K::box::at[2], GROUP = Q::box::at[1] / K::box::at[1];
  static_assert(K::has_rows && V::has_rows);
  long count[4];
  common_extent(count, out);
  for_rows(count, [&](const long(&index)[4]) {
    const long head[4] = {index[0], index[1] / GROUP, 0, 0};
    float* const acc = work + D;
    float* const scores = acc + D;
    prepare<W, D, Q::step>(work, q.data + q.row(index));
    score_rows<1, D>(scores, L, work, k.data + k.row(head), K::stride(2), L, scale, 0.0f);
    if constexpr (CAUSAL)
      for (long j = index[2] + 1; j < L; ++j) scores[j] = -INFINITY;
    if constexpr (!is_none<Mask>) {
      const long from = mask.row(index);
      for (long j = 0; j < L; ++j) {
        const auto allowed = mask.get(from + j * Mask::step);
        if constexpr (std::is_same_v<typename Mask::element, bool>)
          scores[j] = allowed ? scores[j] : -INFINITY;
        else
          scores[j] += allowed;
      }
    }
    const float share = 1.0f / exponentials(scores, L).sum;
    weigh_rows<1, D>(acc, scores, L, v.data + v.row(head), V::stride(2), L);
    const long to = out.row(index);
    for (long d = 0; d < count[3]; ++d) out.put(to + d * Out::step, acc[d] * share);
  });
}

}  // namespace mpk
