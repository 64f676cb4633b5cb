// types.cuh of the device library in plain C++: the same numbers, memory that is just there.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "fibers.hpp"

#define __device__
#define __forceinline__ inline

struct float4 {
  float x, y, z, w;
};
struct float2 {
  float x, y;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned word) {
  float f;
  std::memcpy(&f, &word, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned word;
  std::memcpy(&word, &f, 4);
  return word;
}
inline void __nanosleep(unsigned) {}
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

namespace mpk {

using i64 = long long;
using u32 = unsigned;
using u64 = unsigned long long;
struct bf16 {
  unsigned short bits;
};
template <class>
struct Always {
  using type = void;
};
template <class A, class B>
constexpr bool is_same = std::is_same_v<A, B>;
constexpr int least(int a, int b) { return a < b ? a : b; }
constexpr int most(int a, int b) { return a > b ? a : b; }
constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr int power_of_two_from(int n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}
inline float infinity() { return INFINITY; }
inline float to_float(bf16 v) { return __uint_as_float(u32(v.bits) << 16); }
inline float to_float(float v) { return v; }
template <class To>
To convert(float v) {
  if constexpr (is_same<To, bf16>) {
    const u32 word = __float_as_uint(v);
    if (v != v) return {0x7fc0};
    return {static_cast<unsigned short>((word + 0x7fff + (word >> 16 & 1)) >> 16)};
  } else {
    return To(v);
  }
}
// Two bf16 times two, plus two. One rounding too many where a product has more bits than a float.
inline u32 multiply_add(u32 a, u32 b, u32 c) {
  const auto half = [](u32 word, int i) { return __uint_as_float(i ? word & 0xffff0000u : word << 16); };
  u32 word = 0;
  for (int i = 0; i < 2; ++i)
    word |= u32(convert<bf16>(std::fma(half(a, i), half(b, i), half(c, i))).bits) << 16 * i;
  return word;
}
template <class T>
T load(const T* p) { return *p; }
template <class T>
T load_constant(const T* p) { return *p; }

// Loads abort where a GPU would: an address that is not aligned to the vector.
template <class T, int N>
struct Vector {
  static constexpr int BYTES = N * int(sizeof(T));
  static_assert(BYTES == 8 || BYTES % 16 == 0);
  u32 word[BYTES / 4];
  void clear() { std::memset(word, 0, BYTES); }
  float get(int i) const {
    T v;
    std::memcpy(&v, reinterpret_cast<const char*>(word) + i * sizeof(T), sizeof(T));
    return to_float(v);
  }
  void unpack(float (&v)[N]) const {
    for (int i = 0; i < N; ++i) v[i] = get(i);
  }
};
inline void check_aligned(const void* p, int bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % std::min(16, bytes)) fibers::fail("a vector is not aligned");
}
template <class T, int N>
Vector<T, N> load_vector(const T* p) {
  Vector<T, N> r;
  check_aligned(p, r.BYTES);
  std::memcpy(r.word, p, r.BYTES);
  return r;
}
// What was asked for ahead, from where to where.
inline std::vector<std::pair<std::uintptr_t, std::uintptr_t>> asked_for;
inline void fetch_to_l2(const void* p, int bytes) {
  const auto from = reinterpret_cast<std::uintptr_t>(p);
  if (from % 16 || bytes % 16 || bytes <= 0) fibers::fail("a hint is not aligned");
  asked_for.push_back({from, from + bytes});
}
template <class T, int N>
Vector<T, N> load_constant_vector(const T* p) { return load_vector<T, N>(p); }

}  // namespace mpk
