// Inner products of rows of any float type with fp32 vectors, in GCC vector extensions: sixteen
// lanes wide, which the compiler maps to whatever the machine has.
#pragma once

#include "mpk/tile.hpp"

namespace mpk {

using f32x16 = float __attribute__((vector_size(64)));
using u32x16 = std::uint32_t __attribute__((vector_size(64)));

template <class V>
inline V load_vector(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store_vector(float* to, f32x16 value) { std::memcpy(to, &value, sizeof value); }

inline float lanes_sum(f32x16 v) {
  using f32x8 = float __attribute__((vector_size(32)));
  using f32x4 = float __attribute__((vector_size(16)));
  const f32x8 half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const f32x4 quarter = __builtin_shufflevector(half, half, 0, 1, 2, 3) +
                        __builtin_shufflevector(half, half, 4, 5, 6, 7);
  const f32x4 pair = quarter + __builtin_shufflevector(quarter, quarter, 2, 3, 0, 1);
  return pair[0] + pair[1];
}

// A block of WIDTH stored elements widened to fp32 vectors. Unpacking may permute the block: lane
// `place(i)` of the vectors holds element i, so the other factor is laid out the same way once.
template <class T>
struct Block {
  static constexpr int VECTORS = 1, WIDTH = 16;
  static constexpr int place(int i) { return i; }
  static void load(const T* from, f32x16 (&v)[1]) {
    for (int i = 0; i < 16; ++i) v[0][i] = float(widen(from[i]));
  }
};

template <>
struct Block<float> {
  static constexpr int VECTORS = 1, WIDTH = 16;
  static constexpr int place(int i) { return i; }
  static void load(const float* from, f32x16 (&v)[1]) { v[0] = load_vector<f32x16>(from); }
};

// Even elements are the low halves of 32-bit words, odd ones the high halves: one instruction each.
template <>
struct Block<bf16> {
  static constexpr int VECTORS = 2, WIDTH = 32;
  static constexpr int place(int i) { return i % 2 * 16 + i / 2; }
  static void load(const bf16* from, f32x16 (&v)[2]) {
    const u32x16 words = load_vector<u32x16>(from);
    v[0] = (f32x16)(words << 16);
    v[1] = (f32x16)(words & 0xffff0000u);
  }
};

#ifdef __FLT16_MAX__
template <>
struct Block<f16> {
  static constexpr int VECTORS = 1, WIDTH = 16;
  static constexpr int place(int i) { return i; }
  static void load(const f16* from, f32x16 (&v)[1]) {
    using f16x16 = _Float16 __attribute__((vector_size(32)));
    v[0] = __builtin_convertvector(load_vector<f16x16>(from), f32x16);
  }
};
#endif

// Lays out `from` (K elements of any type, STEP apart) for products with rows of W.
template <class W, long K, long STEP = 1, class X>
inline void prepare(float* to, const X* from) {
  constexpr long width = Block<W>::WIDTH, whole = K / width * width;
  for (long b = 0; b < whole; b += width) {
    if constexpr (std::is_same_v<W, X> && STEP == 1) {
      f32x16 v[Block<W>::VECTORS];
      Block<W>::load(from + b, v);
      for (int j = 0; j < Block<W>::VECTORS; ++j) store_vector(to + b + 16 * j, v[j]);
    } else {
      for (int i = 0; i < width; ++i) to[b + Block<W>::place(i)] = float(widen(from[(b + i) * STEP]));
    }
  }
  if constexpr (whole < K)
    for (long i = whole; i < K; ++i) to[i] = float(widen(from[i * STEP]));
}

// How far ahead of use memory is asked for; a stream of rows goes on after its last byte.
constexpr long ahead(long block_bytes) { return (4095 + block_bytes) / block_bytes * block_bytes; }

// sum[r][t] = w[r] . x[t] over K elements; each x is prepared for W. The rows follow one another.
template <int R, int T, long K, class W>
inline void dots(const W* const (&w)[R], const float* const (&x)[T], float (&sum)[R][T]) {
  constexpr int vectors = Block<W>::VECTORS, width = Block<W>::WIDTH;
  // Products that leave registers free get more accumulators each, which shortens the chains.
  constexpr int blocks = R * T == 1 ? 2 : 1, chains = R * T <= 8 ? vectors * blocks : 1;
  constexpr long distance = ahead(R * K * long(sizeof(W)));
  constexpr long whole = K / width * width, paired = whole / (width * blocks) * (width * blocks);
  f32x16 total[R][T][chains] = {};
  const auto block = [&](long b, int part) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      f32x16 v[vectors];
      __builtin_prefetch(reinterpret_cast<const char*>(w[r] + b) + distance);
      Block<W>::load(w[r] + b, v);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j)
          total[r][t][(part * vectors + j) % chains] += v[j] * load_vector<f32x16>(x[t] + b + 16 * j);
    }
  };
#pragma GCC unroll 1
  for (long b = 0; b < paired; b += width * blocks)
#pragma GCC unroll 2
    for (int part = 0; part < blocks; ++part) block(b + part * width, part);
  if constexpr (paired < whole) block(paired, 0);
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      f32x16 all = total[r][t][0];
      for (int j = 1; j < chains; ++j) all += total[r][t][j];
      sum[r][t] = lanes_sum(all);
      if constexpr (whole < K)
        for (long i = whole; i < K; ++i) sum[r][t] += float(widen(w[r][i])) * x[t][i];
    }
}

}  // namespace mpk
