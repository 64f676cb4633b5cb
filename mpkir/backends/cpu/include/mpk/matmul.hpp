// Products of two activations, with NumPy's broadcasting of the batch dimensions.
#pragma once

#include "mpk/tile.hpp"

namespace mpk {

// out[.., m, n] = sum_k lhs[.., m, k] * rhs[.., k, n]; `row` holds one row of sums.
template <class A, class Out, class L, class R>
inline void matmul(A* row, const Out& out, const L& lhs, const R& rhs) {
  constexpr int rank = Out::rank;
  constexpr long k = L::box::last;
  static_assert(R::box::at[R::rank - 2] == k);
  long count[rank];
  common_extent(count, out);
  const long n = count[rank - 1];
  for_rows(count, [&](const long(&index)[rank]) {
    long batch[rank];  // the same without the row, for rhs
    for (int d = 0; d < rank; ++d) batch[d] = d == rank - 2 ? 0 : index[d];
    const long from = lhs.row(index), other = rhs.row(batch), to = out.row(index);
    for (long i = 0; i < n; ++i) row[i] = 0;
    for (long j = 0; j < k; ++j) {
      const A factor = A(lhs.get(from + j * L::step));
      const long line = other + j * R::stride(R::rank - 2);
#pragma GCC ivdep
      for (long i = 0; i < n; ++i) row[i] += factor * A(rhs.get(line + i * R::step));
    }
    for (long i = 0; i < n; ++i) out.put(to + i * Out::step, row[i]);
  });
}

}  // namespace mpk
