// Reductions along any dimensions: sums in fp32 (int64 for integers).
#pragma once

#include <limits>

#include "mpk/pointwise.hpp"

namespace mpk {

template <class A>
struct Sum {
  static constexpr A start = 0;
  static A join(A a, A b) { return a + b; }
};
// A NaN is chosen.
template <class A>
struct Max {
  static constexpr A start = std::numeric_limits<A>::has_infinity
                                 ? -std::numeric_limits<A>::infinity()
                                 : std::numeric_limits<A>::lowest();
  static A join(A a, A b) { return a > b || a != a ? a : b; }
};
template <class A>
struct Min {
  static constexpr A start = std::numeric_limits<A>::has_infinity
                                 ? std::numeric_limits<A>::infinity()
                                 : std::numeric_limits<A>::max();
  static A join(A a, A b) { return a < b || a != a ? a : b; }
};

// out has size 1 where x is reduced; `work` holds one accumulator for each of its elements.
template <template <class> class Kind, bool MEAN, class A, class Out, class X>
inline void reduce(A* work, const Out& out, const X& x) {
  static_assert(Out::rank == X::rank);
  constexpr int rank = X::rank;
  const auto total = local<A, typename Out::box>(work);
  for (long i = 0; i < Out::box::size; ++i) work[i] = Kind<A>::start;
  long count[rank];
  common_extent(count, x);
  const long n = count[rank - 1];
  for_rows(count, [&](const long(&index)[rank]) {
    const long from = x.row(index);
    A* const to = work + total.row(index);
    if constexpr (Out::box::last != 1 || X::box::last == 1) {
#pragma GCC ivdep
      for (long i = 0; i < n; ++i) to[i] = Kind<A>::join(to[i], A(x.get(from + i * X::step)));
    } else {
      // Sixteen chains, which the compiler can turn into vectors, in an order that is always the same.
      A part[16];
      for (int j = 0; j < 16; ++j) part[j] = Kind<A>::start;
      long i = 0;
      for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; ++j) part[j] = Kind<A>::join(part[j], A(x.get(from + (i + j) * X::step)));
      for (; i < n; ++i) part[i % 16] = Kind<A>::join(part[i % 16], A(x.get(from + i * X::step)));
      for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; ++j) part[j] = Kind<A>::join(part[j], part[j + half]);
      *to = Kind<A>::join(*to, part[0]);
    }
  });
  constexpr A joined = MEAN ? A(X::box::size / Out::box::size) : A(1);
  elementwise(out, [](A v) { return v / joined; }, total);
}

}  // namespace mpk
