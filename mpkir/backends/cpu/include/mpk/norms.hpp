// Operators on rows (the last dimension): norms and softmax, in fp32. Out may be x itself.
#pragma once

#include "mpk/tile.hpp"

namespace mpk {

// out = x / sqrt(mean(x^2) + eps) * weight
template <class Out, class X, class Weight>
inline void rms_norm(const Out& out, const X& x, const Weight& weight, float eps) {
  constexpr long n = X::box::last;
  long count[Out::rank];
  common_extent(count, out, x);
  for_rows(count, [&](const long(&index)[Out::rank]) {
    const long from = x.row(index), to = out.row(index);
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (long i = 0; i < n; ++i) {
      const float v = x.get(from + i * X::step);
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(squares / float(n) + eps);
#pragma GCC ivdep
    for (long i = 0; i < n; ++i) {
      const float v = x.get(from + i * X::step) * scale;
      if constexpr (is_none<Weight>)
        out.put(to + i * Out::step, v);
      else
        out.put(to + i * Out::step, v * weight.get(i * Weight::step));
    }
  });
}

// out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
template <class Out, class X, class Weight, class Bias>
inline void layer_norm(const Out& out, const X& x, const Weight& weight, const Bias& bias, float eps) {
  constexpr long n = X::box::last;
  long count[Out::rank];
  common_extent(count, out, x);
  for_rows(count, [&](const long(&index)[Out::rank]) {
    const long from = x.row(index), to = out.row(index);
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; ++i) sum += x.get(from + i * X::step);
    const float mean = sum / float(n);
#pragma omp simd reduction(+ : squares)
    for (long i = 0; i < n; ++i) {
      const float v = x.get(from + i * X::step) - mean;
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(squares / float(n) + eps);
#pragma GCC ivdep
    for (long i = 0; i < n; ++i) {
      const float v = (x.get(from + i * X::step) - mean) * scale;
      out.put(to + i * Out::step, v * weight.get(i * Weight::step) + bias.get(i * Bias::step));
    }
  });
}

// Replaces n scores by exp(score - top) and gives (top, sum); n >= 1. A NaN spreads to the sum.
struct Exponentials {
  float top, sum;
};
inline Exponentials exponentials(float* scores, long n) {
  float top = scores[0];
#pragma omp simd reduction(max : top)
  for (long i = 0; i < n; ++i) top = scores[i] > top ? scores[i] : top;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (long i = 0; i < n; ++i) {
    scores[i] = exp(scores[i] - top);
    sum += scores[i];
  }
  return {top, sum};
}

// out = exp(x - max(x)) / sum(exp(x - max(x))); `row` holds one row.
template <class Out, class X>
inline void softmax(float* row, const Out& out, const X& x) {
  constexpr long n = X::box::last;
  long count[Out::rank];
  common_extent(count, out, x);
  for_rows(count, [&](const long(&index)[Out::rank]) {
    const long from = x.row(index), to = out.row(index);
    for (long i = 0; i < n; ++i) row[i] = x.get(from + i * X::step);
    const float scale = 1.0f / exponentials(row, n).sum;
    for (long i = 0; i < n; ++i) out.put(to + i * Out::step, row[i] * scale);
  });
}

}  // namespace mpk
