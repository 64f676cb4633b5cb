// Linear layers: weights are streamed once, every row of x is multiplied while they are in cache.
#pragma once

#include <tuple>
#include <utility>

#include "mpk/dot.hpp"

namespace mpk {

inline constexpr long padded(long n) { return (n + 31) / 32 * 32; }

// Floats that `linear` keeps between the tasks of a run.
template <class X>
inline constexpr long prepared_size = X::box::size / X::box::last * padded(X::box::last);

template <int J, class Out, class X, class Weight, class Epilogue, class... Extra>
class Linear {
  using W = typename Weight::element;
  static constexpr int rank = Out::rank;
  static constexpr long K = Weight::box::last, PADDED = padded(K);
  static constexpr long ROWS = Out::box::size / Out::box::last;
  static_assert(X::box::last == K && X::rank == rank && Weight::rank == 2 && Weight::has_rows);

 public:
  Linear(const Out& out, const X& x, const Weight (&weights)[J], float* prepared,
         Epilogue epilogue, const Extra&... extra)
      : out_(out), weights_(weights), prepared_(prepared), epilogue_(epilogue), extra_(extra...) {
    common_extent(count_, out, extra...);
    for (int d = 0; d + 1 < rank; ++d)
      if (x.extent(d) < count_[d]) count_[d] = x.extent(d);
    if (weights[0].extent(0) < count_[rank - 1]) count_[rank - 1] = weights[0].extent(0);
    for_rows(count_, [&](const long(&index)[rank]) {
      std::apply([&](const auto&... e) { rows_[total_] = {out.row(index), {e.row(index)...}}; }, extra_);
      ++total_;
    });
  }

  void prepare_x(const X& x) const {
    long r = 0;
    for_rows(count_, [&](const long(&index)[rank]) {
      prepare<W, K, X::step>(prepared_ + r++ * PADDED, x.data + x.row(index));
    });
  }

  void run() const {
    const long n = count_[rank - 1];
    long i = 0;
    // Several rows of x share loads of weights; one row is bound by memory, which likes one stream.
    if constexpr (ROWS > 1)
      for (; i + 4 <= n; i += 4) all_rows<4>(i);
    for (; i < n; ++i) all_rows<1>(i);
  }

 private:
  template <int R>
  void all_rows(long first) const {
    long r = 0;
    if constexpr (ROWS >= 4)
      for (; r + 4 <= total_; r += 4) block<R, 4>(first, r);
    for (; r < total_; ++r) block<R, 1>(first, r);
  }

  // Features [first, first + R) of rows [row, row + T).
  template <int R, int T>
  void block(long first, long row) const {
    float sum[J][R][T];
    const float* x[T];
    for (int t = 0; t < T; ++t) x[t] = prepared_ + (row + t) * PADDED;
    for (int j = 0; j < J; ++j) {
      const W* w[R];
      for (int i = 0; i < R; ++i) w[i] = weights_[j].data + (first + i) * Weight::stride(0);
      dots<R, T, K>(w, x, sum[j]);
    }
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < R; ++i)
        finish(rows_[row + t], first + i, [&](int j) { return sum[j][i][t]; },
               std::make_integer_sequence<int, J>{}, std::index_sequence_for<Extra...>{});
  }

  struct Row {
    long out;
    long extra[sizeof...(Extra) + 1];
  };

  template <class Sum, int... Js, std::size_t... Es>
  void finish(const Row& row, long n, Sum sum, std::integer_sequence<int, Js...>,
              std::index_sequence<Es...>) const {
    const auto extra = [&](const auto& e, long from) { return e.get(from + n * e.step); };
    out_.put(row.out + n * Out::step,
             epilogue_(sum(Js)..., extra(std::get<Es>(extra_), row.extra[Es])...));
  }

  const Out& out_;
  const Weight (&weights_)[J];
  float* const prepared_;
  const Epilogue epilogue_;
  const std::tuple<const Extra&...> extra_;
  long count_[rank];
  long total_ = 0;
  Row rows_[ROWS];
};

// out[.., n] = epilogue(x[.., :] . weights[0][n, :], .., extra..), sums in fp32.
//
// prepared: prepared_size<X> floats; where `fresh` is false they still hold this x.
template <int J, class Out, class X, class Weight, class Epilogue, class... Extra>
inline void linear(bool fresh, float* prepared, const Out& out, const X& x, const Weight (&weights)[J],
                   Epilogue epilogue, const Extra&... extra) {
  const Linear<J, Out, X, Weight, Epilogue, Extra...> task(out, x, weights, prepared, epilogue, extra...);
  if (fresh) task.prepare_x(x);
  task.run();
}

// Asks for the first bytes of a tile of weights, to use the time of a wait.
template <class Weight>
inline void prefetch(const Weight& weight) {
  constexpr long bytes = Weight::box::size * long(sizeof(typename Weight::element));
  const char* const from = reinterpret_cast<const char*>(weight.data);
  for (long i = 0; i < (bytes < 65536 ? bytes : 65536); i += 64) __builtin_prefetch(from + i, 0, 2);
}

}  // namespace mpk
