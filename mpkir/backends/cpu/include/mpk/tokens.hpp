// The token sequence: looking up embeddings, choosing the next token, appending it, stopping.
#pragma once

#include "mpk/runtime.hpp"
#include "mpk/tile.hpp"

namespace mpk {

template <class Table>
inline long clamp_id(const Table&, long long id) {
  const long last = Table::box::at[0] - 1;
  return id < 0 ? 0 : (id > last ? last : long(id));
}

// out[.., h] = table[ids[..], h]
template <class Out, class Table, class Ids>
inline void embedding(const Out& out, const Table& table, const Ids& ids) {
  long count[Out::rank];
  common_extent(count, out);
  for_rows(count, [&](const long(&index)[Out::rank]) {
    const long id = clamp_id(table, ids.get(ids.leading(index, Out::rank - 1)));
    const long from = id * Table::stride(0), to = out.row(index);
    for (long h = 0; h < count[Out::rank - 1]; ++h)
      out.put(to + h * Out::step, table.get(from + h * Table::step));
  });
}

// Token `at` of row b of sequences [B, C + 1], or of the only one, [C + 1]; -1 outside.
template <class Sequence>
inline long long token_at(const Sequence& sequence, long b, long at) {
  if (at < 0 || at >= Sequence::box::last) return -1;
  const long row = Sequence::rank == 1 ? 0 : b * Sequence::stride(0);
  return sequence.get(row + at * Sequence::step);
}

// out[b, t, h] = table[ids[b, position[t]], h]
template <class Out, class Table, class Ids, class Position>
inline void embedding_at(const Out& out, const Table& table, const Ids& ids, const Position& position) {
  for (long b = 0; b < out.extent(0); ++b)
    for (long t = 0; t < out.extent(1); ++t) {
      const long id = clamp_id(table, token_at(ids, b, long(position.get(t * Position::step))));
      const long from = id * Table::stride(0), to = b * Out::stride(0) + t * Out::stride(1);
      for (long h = 0; h < out.extent(2); ++h)
        out.put(to + h * Out::step, table.get(from + h * Table::step));
    }
}

// out[b, t] = sequence[b, position[t]]; -1 outside.
template <class Out, class Sequence, class Position>
inline void sequence_read(const Out& out, const Sequence& sequence, const Position& position) {
  for (long b = 0; b < out.extent(0); ++b)
    for (long t = 0; t < out.extent(1); ++t)
      out.put(b * Out::stride(0) + t * Out::step,
              token_at(sequence, b, long(position.get(t * Position::step))));
}

// Writes a token after the step's last position unless one stands there already.
template <long long... STOP, class Out, class Sequence, class Position>
inline void append(const Context& context, const Out& out, const Sequence& sequence,
                   const Position& position, long long token) {
  constexpr long size = Sequence::box::last;
  if constexpr (!is_none<Out>)
    if (static_cast<const void*>(out.data) != sequence.data)
      for (long i = 0; i < size; ++i) out.put(i, sequence.get(i));
  const long at = long(position.get(Position::box::last - 1)) + 1;
  if (at < 0 || at >= size || sequence.get(at) != -1) return;
  if constexpr (!is_none<Out>) out.put(at, token);
  if (((token == STOP) || ...)) context.request_stop();
}

// The same for each row of several sequences: a row has ended (-2 stands where its token would go) after
// a stop token, which is noted for the next step; the launch ends when all rows have.
template <long long... STOP, class Out, class Sequence, class Token, class Position>
inline void append_rows(const Context& context, const Out& out, const Sequence& sequence,
                        const Token& token, const Position& position) {
  constexpr long rows = Sequence::box::at[0], size = Sequence::box::last, steps = Position::box::last;
  static_assert(!is_none<Out> && Token::box::at[0] == rows);
  if (static_cast<const void*>(out.data) != sequence.data)
    for (long b = 0; b < rows; ++b)
      for (long i = 0; i < size; ++i) out.put(b * Out::stride(0) + i, token_at(sequence, b, i));
  const long at = long(position.get(steps - 1)) + 1;
  if (at < 0 || at >= size) return;
  long last = 0, ended = 0;
  for (int d = 1; d < Token::rank; ++d) last += (token.extent(d) - 1) * Token::stride(d);
  for (long b = 0; b < rows; ++b) {
    const long long known = token_at(sequence, b, at), chosen = token.get(b * Token::stride(0) + last);
    if (known == -1) out.put(b * Out::stride(0) + at, chosen);
    const bool ends = known == -2 || (known == -1 && ((chosen == STOP) || ...));
    if (ends && at + steps < size) out.put(b * Out::stride(0) + at + steps, -2);
    ended += ends;
  }
  if (ended == rows) context.request_stop();
}

template <long long... STOP, class Out, class Sequence, class Token, class Position>
inline void sequence_append(const Context& context, const Out& out, const Sequence& sequence,
                            const Token& token, const Position& position) {
  if constexpr (Sequence::rank == 1) {
    long last = 0;
    for (int d = 0; d < Token::rank; ++d) last += (token.extent(d) - 1) * Token::stride(d);
    append<STOP...>(context, out, sequence, position, token.get(last));
  } else {
    append_rows<STOP...>(context, out, sequence, token, position);
  }
}

// The largest of n elements, the first of equals; a NaN counts as the largest.
template <class V>
struct Best {
  V value;
  long index;
};
template <class X>
inline Best<typename X::carried> largest(const X& x, long from, long n) {
  using V = typename X::carried;
  constexpr long lanes = 64;
  V top = x.get(from);
  bool odd = false;
  // The blocks' maxima first, as vector code; then the place in the first block that has it.
  long block = 0;
  for (long b = 0; b < n && !odd; b += lanes) {
    const long m = n - b < lanes ? n - b : lanes;
    V here = x.get(from + b * X::step);
    int nans = 0;
#pragma omp simd reduction(max : here) reduction(+ : nans)
    for (long i = 0; i < m; ++i) {
      const V v = x.get(from + (b + i) * X::step);
      here = v > here ? v : here;
      nans += v != v;
    }
    if (nans || here > top) {
      top = here;
      block = b;
    }
    odd = nans != 0;
  }
  for (long i = block; i < n; ++i) {
    const V v = x.get(from + i * X::step);
    if (odd ? v != v : v == top) return {v, i};
  }
  return {top, 0};
}

// out[..] = index of the largest of x[.., :]
template <class Out, class X>
inline void argmax(const Out& out, const X& x) {
  long count[X::rank];
  common_extent(count, x);
  for_rows(count, [&](const long(&index)[X::rank]) {
    out.put(out.leading(index, X::rank - 1), largest(x, x.row(index), count[X::rank - 1]).index);
  });
}

// Each chunk's largest element and its index in the whole; chunk 0 of x is number `origin`, and chunks
// begin STEP elements apart (0: an index counts from its chunk's first).
template <long CHUNK, long STEP = CHUNK, class Value, class Index, class X>
inline void argmax_partial(const Value& value, const Index& best, const X& x, long origin) {
  long count[X::rank];
  common_extent(count, x);
  const long n = count[X::rank - 1];
  for_rows(count, [&](const long(&index)[X::rank]) {
    const long from = x.row(index);
    const long to = value.leading(index, X::rank - 1), other = best.leading(index, X::rank - 1);
    for (long s = 0; s * CHUNK < n; ++s) {
      const long left = n - s * CHUNK;
      const auto found = largest(x, from + s * CHUNK * X::step, left < CHUNK ? left : CHUNK);
      value.put(to + s * Value::step, found.value);
      best.put(other + s * Index::step, found.index + (origin + s) * STEP);
    }
  });
}

// Each chunk's largest candidate and its index in the whole; chunk 0 is number `origin`, and a candidate's
// index counts from the first of its PART elements.
template <long CHUNK, long PART, class Value, class Index, class Values, class Indices>
inline void argmax_join(const Value& value, const Index& best, const Values& values, const Indices& indices,
                        long origin) {
  long count[Values::rank];
  common_extent(count, values);
  const long n = count[Values::rank - 1];
  for_rows(count, [&](const long(&index)[Values::rank]) {
    const long from = values.row(index), other = indices.row(index);
    const long to = value.leading(index, Values::rank - 1), at = best.leading(index, Values::rank - 1);
    for (long s = 0; s * CHUNK < n; ++s) {
      const long left = n - s * CHUNK;
      const auto found =
          largest(values, from + s * CHUNK * Values::step, left < CHUNK ? left : CHUNK);
      const long j = s * CHUNK + found.index;
      value.put(to + s * Value::step, found.value);
      best.put(at + s * Index::step, indices.get(other + j * Indices::step) + (origin * CHUNK + j) * PART);
    }
  });
}

// out[..] = index of the largest value; gives the last one found. Every EACH candidates are of another
// part of the row, of PART elements.
template <long EACH = 1, long PART = 0, class Out, class Value, class Index>
inline long long argmax_merge(const Out& out, const Value& value, const Index& index) {
  long count[Value::rank];
  common_extent(count, value);
  long long token = 0;
  for_rows(count, [&](const long(&at)[Value::rank]) {
    const long s = largest(value, value.row(at), count[Value::rank - 1]).index;
    token = index.get(index.row(at) + s * Index::step) + s / EACH * PART;
    if constexpr (!is_none<Out>) out.put(out.leading(at, Value::rank - 1), token);
  });
  return token;
}

}  // namespace mpk
