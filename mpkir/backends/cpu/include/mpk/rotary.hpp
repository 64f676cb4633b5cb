// Rotary position embedding of token-major heads.
#pragma once

#include "mpk/tile.hpp"

namespace mpk {

// x, out: [B, T, heads, D]; position: [T]; inv_freq: [R / 2]. Dimensions from R on are copied.
template <bool INTERLEAVED, class Out, class X, class Position, class Frequency>
inline void rotary(const Out& out, const X& x, const Position& position, const Frequency& inv_freq,
                   float scale) {
  constexpr long pairs = Frequency::box::last, d = X::box::last;
  long count[4];
  common_extent(count, out, x);
  for (long t = 0; t < count[1]; ++t) {
    float cosine[pairs], sine[pairs];
    for (long i = 0; i < pairs; ++i) {
      const float angle = float(position.get(t * Position::step)) * inv_freq.get(i * Frequency::step);
      cosine[i] = std::cos(angle);
      sine[i] = std::sin(angle);
    }
    for (long b = 0; b < count[0]; ++b)
      for (long h = 0; h < count[2]; ++h) {
        const long index[4] = {b, t, h, 0};
        const long from = x.row(index), to = out.row(index);
#pragma GCC ivdep
        for (long i = 0; i < pairs; ++i) {
          const long first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? first + 1 : i + pairs;
          const float u = x.get(from + first * X::step), v = x.get(from + second * X::step);
          out.put(to + first * Out::step, scale * (u * cosine[i] - v * sine[i]));
          out.put(to + second * Out::step, scale * (v * cosine[i] + u * sine[i]));
        }
        for (long i = 2 * pairs; i < d; ++i) out.put(to + i * Out::step, x.get(from + i * X::step));
      }
  }
}

}  // namespace mpk
