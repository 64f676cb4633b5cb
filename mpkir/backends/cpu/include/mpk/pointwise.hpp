// Operators without sums: elementwise functions, copies under another index, constants.
#pragma once

#include "mpk/tile.hpp"

namespace mpk {

// out = f(in..) with NumPy's broadcasting; an input may be out itself.
template <class Out, class F, class... In>
inline void elementwise(const Out& out, F f, const In&... in) {
  long count[Out::rank];
  common_extent(count, out, in...);
  for_rows(count, [&](const long(&index)[Out::rank]) {
    const long n = count[Out::rank - 1], to = out.row(index);
    const auto line = [&](auto... from) {
#pragma GCC ivdep
      for (long i = 0; i < n; ++i) out.put(to + i * Out::step, f(in.get(from + i * In::step)...));
    };
    line(in.row(index)...);
  });
}

// out = in, which broadcasts to it.
template <class Out, class In>
inline void copy(const Out& out, const In& in) {
  elementwise(out, [](typename In::carried v) { return v; }, in);
}

// out[i0, i1, ..] = in[j], where dimension from[d] of `in` is at start[d] + i_d * by[d].
template <class From, class Start, class By, class Out, class In>
inline void strided_copy(const Out& out, const In& in) {
  constexpr int rank = Out::rank;
  static_assert(In::rank == rank);
  constexpr long step = In::stride(From::last) * By::last;
  long count[rank], base = 0;
  common_extent(count, out);
  for (int d = 0; d < rank; ++d) base += Start::at[d] * In::stride(From::at[d]);
  for_rows(count, [&](const long(&index)[rank]) {
    long from = base;
    for (int d = 0; d + 1 < rank; ++d) from += index[d] * By::at[d] * In::stride(From::at[d]);
    const long to = out.row(index);
    for (long i = 0; i < count[rank - 1]; ++i) out.put(to + i * Out::step, in.get(from + i * step));
  });
}

// The part of out that begins at `first` along dimension D becomes in.
template <int D, class Out, class In>
inline void place(long first, const Out& out, const In& in) {
  constexpr int rank = Out::rank;
  long count[rank];
  for (int d = 0; d < rank; ++d) {
    const long room = out.extent(d) - (d == D ? first : 0);
    count[d] = in.extent(d) < room ? in.extent(d) : room;
  }
  for_rows(count, [&](const long(&index)[rank]) {
    const long from = in.leading(index, rank - 1);
    const long to = out.leading(index, rank - 1) + first * Out::stride(D);
    for (long i = 0; i < count[rank - 1]; ++i) out.put(to + i * Out::step, in.get(from + i * In::step));
  });
}

// Offset of element number `n` (row-major in the box) of a tile.
template <class T>
inline long nth(long n) {
  long offset = 0;
  for (int d = T::rank - 1; d >= 0; --d) {
    offset += n % T::box::at[d] * T::stride(d);
    n /= T::box::at[d];
  }
  return offset;
}

// The same elements in row-major order under another shape; neither tile may be clipped.
template <class Out, class In>
inline void reshape(const Out& out, const In& in) {
  static_assert(Out::box::size == In::box::size);
  for (long i = 0; i < Out::box::size; ++i) out.put(nth<Out>(i), in.get(nth<In>(i)));
}

template <class Out>
inline void full(const Out& out, typename Out::carried value) {
  elementwise(out, [=] { return value; });
}

// out[i] = start + i * by
template <class Out>
inline void iota(const Out& out, long start, long by) {
  for (long i = 0; i < out.extent(0); ++i) out.put(i * Out::step, typename Out::carried(start + i * by));
}

}  // namespace mpk
