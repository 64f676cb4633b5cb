// Mixtures of experts: a router's choice, and linear layers whose weights it chooses.
#pragma once

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "mpk/linear.hpp"

namespace mpk {

enum class Scores { raw, softmax, softmax_of_chosen };

// The largest elements of each row of x in descending order, the first of equals first; NaN counts as
// infinity.
template <Scores SCORES, class Values, class Indices, class X>
inline void topk(const Values& values, const Indices& indices, const X& x) {
  using V = typename X::carried;
  constexpr long n = X::box::last, k = Values::box::last;
  const auto rank_of = [](V v) { return v == v ? v : std::numeric_limits<V>::infinity(); };
  long count[X::rank];
  common_extent(count, x);
  for_rows(count, [&](const long(&index)[X::rank]) {
    const long from = x.row(index), to = values.row(index), at = indices.row(index);
    V chosen[k];
    long last = -1;
    for (long c = 0; c < k; ++c) {
      // The next in order is the largest of those behind the last one.
      long best = -1;
      for (long i = 0; i < n; ++i) {
        const V v = rank_of(x.get(from + i * X::step));
        if (last >= 0) {
          const V before = rank_of(x.get(from + last * X::step));
          if (v > before || (v == before && i <= last)) continue;
        }
        if (best < 0 || v > rank_of(x.get(from + best * X::step))) best = i;
      }
      chosen[c] = x.get(from + best * X::step);
      indices.put(at + c * Indices::step, best);
      last = best;
    }
    V total = 1;
    if constexpr (SCORES != Scores::raw) {
      const V top = chosen[0];
      total = 0;
      if constexpr (SCORES == Scores::softmax)
        for (long i = 0; i < n; ++i) total += std::exp(x.get(from + i * X::step) - top);
      for (long c = 0; c < k; ++c) {
        chosen[c] = std::exp(chosen[c] - top);
        if constexpr (SCORES == Scores::softmax_of_chosen) total += chosen[c];
      }
    }
    for (long c = 0; c < k; ++c) values.put(to + c * Values::step, chosen[c] / total);
  });
}

// out[r, n] = epilogue(sums_0[r, n], .., extra..), where sums_j of row r adds up, over the slots s of r,
// scales[s] * (x's row of s . weights[j][experts[s], n, :]), in fp32.
//
// The weights lie in memory as the tile `layout` does; out says how many of their rows count.
// Without scales each slot is a row of out, and neighbouring slots share a row of x; with scales each
// slot has a row of x, and neighbouring slots share a row of out.
template <int J, class Out, class X, class Weight, class Experts, class Scales, class Epilogue,
          class... Extra>
class ExpertLinear {
  using W = typename Weight::element;
  static constexpr bool SCALED = !is_none<Scales>;
  static constexpr long K = Weight::box::last, PADDED = padded(K), N = Out::box::last;
  static constexpr long SLOTS = Experts::box::last, OUT_ROWS = Out::box::size / N;
  static constexpr long X_ROWS = X::box::size / K, EACH = SLOTS / OUT_ROWS, SHARED = SLOTS / X_ROWS;
  static_assert(X::box::last == K && X::step <= 1 && Weight::rank == 3);
  static_assert(SLOTS == (SCALED ? X_ROWS : OUT_ROWS));

 public:
  ExpertLinear(const Out& out, const W* const (&weights)[J], const Experts& experts,
               const Scales& scales, float* prepared, Epilogue epilogue, const Extra&... extra)
      : out_(out), weights_(weights), experts_(experts), scales_(scales), prepared_(prepared),
        epilogue_(epilogue), extra_(extra...) {}

  void prepare_x(const X& x) const {
    long count[X::rank], r = 0;
    common_extent(count, x);
    for_rows(count, [&](const long(&index)[X::rank]) {
      prepare<W, K>(prepared_ + r++ * PADDED, x.data + x.row(index));
    });
  }

  void run() const {
    long count[Out::rank], row = 0;
    std::apply([&](const auto&... e) { common_extent(count, out_, e...); }, extra_);
    const long n = count[Out::rank - 1];
    for_rows(count, [&](const long(&index)[Out::rank]) {
      float sum[J][N] = {};
      for (long s = row * EACH; s < (row + 1) * EACH; ++s) add(sum, s, n);
      ++row;
      for (long i = 0; i < n; ++i)
        finish(index, i, sum, std::make_integer_sequence<int, J>{},
               std::index_sequence_for<Extra...>{});
    });
  }

 private:
  void add(float (&sum)[J][N], long slot, long n) const {
    const long chosen = experts_.get(slot * Experts::step), last = Weight::box::at[0] - 1;
    const long expert = chosen < 0 ? 0 : (chosen > last ? last : chosen);
    float scale = 1;
    if constexpr (SCALED) scale = scales_.get(slot * Scales::step);
    const float* const x[1] = {prepared_ + slot / SHARED * PADDED};
    for (int j = 0; j < J; ++j) {
      const W* const matrix = weights_[j] + expert * Weight::stride(0);
      for (long i = 0; i < n; ++i) {
        const W* const w[1] = {matrix + i * Weight::stride(1)};
        float product[1][1];
        dots<1, 1, K>(w, x, product);
        sum[j][i] += scale * product[0][0];
      }
    }
  }

  template <int... Js, std::size_t... Es>
  void finish(const long (&index)[Out::rank], long n, const float (&sum)[J][N],
              std::integer_sequence<int, Js...>, std::index_sequence<Es...>) const {
    const auto extra = [&](const auto& e) { return e.get(e.row(index) + n * e.step); };
    out_.put(out_.row(index) + n * Out::step, epilogue_(sum[Js][n]..., extra(std::get<Es>(extra_))...));
  }

  const Out& out_;
  const W* const (&weights_)[J];
  const Experts& experts_;
  const Scales& scales_;
  float* const prepared_;
  const Epilogue epilogue_;
  const std::tuple<const Extra&...> extra_;
};

// prepared: prepared_size<X> floats; where `fresh` is false they still hold this x.
template <int J, class Out, class X, class Weight, class Experts, class Scales, class Epilogue,
          class... Extra>
inline void expert_linear(bool fresh, float* prepared, const Out& out, const X& x, const Weight&,
                          const typename Weight::element* const (&weights)[J], const Experts& experts,
                          const Scales& scales, Epilogue epilogue, const Extra&... extra) {
  const ExpertLinear<J, Out, X, Weight, Experts, Scales, Epilogue, Extra...> task(
      out, weights, experts, scales, prepared, epilogue, extra...);
  if (fresh) task.prepare_x(x);
  task.run();
}

}  // namespace mpk
