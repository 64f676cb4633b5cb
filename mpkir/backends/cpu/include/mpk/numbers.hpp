// Element types, and what they are computed in: 16-bit floats in fp32, everything else in itself.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace mpk {

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

template <class To, class From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

template <class T>
inline T widen(T value) {
  return value;
}
inline float widen(bf16 value) { return bit_cast<float>(std::uint32_t(value.bits) << 16); }

// IEEE half by the integer route: exponents are moved, subnormals are scaled.
inline float widen(f16 value) {
  const std::uint32_t sign = std::uint32_t(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = std::uint32_t(value.bits & 0x7fffu) << 13;
  const std::uint32_t rest = magnitude < 0x0f800000u ? 112u << 23 : 224u << 23;  // inf and nan: 255
  const float subnormal = float(value.bits & 0x3ffu) * 0x1p-24f;
  const std::uint32_t bits =
      magnitude < 0x00800000u ? bit_cast<std::uint32_t>(subnormal) : magnitude + rest;
  return bit_cast<float>(sign | bits);
}

template <class T>
struct Narrow {
  template <class From>
  static T from(From value) {
    return T(value);
  }
};

// Nearest, ties to even; a NaN stays one (made quiet).
template <>
struct Narrow<bf16> {
  static bf16 from(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const std::uint32_t nan = bits >> 16 | 0x40u;
    return {std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
  }
};

template <>
struct Narrow<f16> {
  static f16 from(float value) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {std::uint16_t(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {std::uint16_t(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // subnormal in 16 bits: the addition rounds at bit 0
      const float shifted = bit_cast<float>(magnitude) + 0.5f;
      return {std::uint16_t(sign | (bit_cast<std::uint32_t>(shifted) - 0x3f000000u))};
    }
    const std::uint32_t rounded = magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u);
    return {std::uint16_t(sign | rounded >> 13)};
  }
};

template <class T, class From>
inline T narrow(From value) {
  return Narrow<T>::from(value);
}

inline float round_bf16(float value) { return widen(narrow<bf16>(value)); }
inline float round_f16(float value) { return widen(narrow<f16>(value)); }

// The type in which elements of T are computed.
template <class T>
using Carried = decltype(widen(std::declval<std::remove_const_t<T>>()));

// e^x within 2 units in the last place, branch-free so that loops around it become vector code.
// 2^n is applied in two halves, which reaches infinity, subnormals and zero as it should.
inline float exp(float x) {
  const float bounded = x > 89.0f ? 89.0f : (x < -104.0f ? -104.0f : x);
  const float n = (bounded * 0x1.715476p0f + 0x1.8p23f) - 0x1.8p23f;
  const float r = (bounded - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float p = 0x1.694p-10f;
  p = p * r + 0x1.125edcp-7f;
  p = p * r + 0x1.555b5ap-5f;
  p = p * r + 0x1.55545p-3f;
  p = p * r + 0x1.fffff6p-2f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t whole = std::int32_t(n), half = whole >> 1;
  const float first = bit_cast<float>((half + 127) << 23);
  const float second = bit_cast<float>((whole - half + 127) << 23);
  const float result = p * first * second;
  return x != x ? x : result;
}

}  // namespace mpk
