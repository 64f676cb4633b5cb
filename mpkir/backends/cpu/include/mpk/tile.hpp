// Tiles: the box of a buffer that a task touches, with all sizes and strides known to the compiler.
#pragma once

#include <cstddef>

#include "mpk/numbers.hpp"

namespace mpk {

template <long... N>
struct Dims {
  static constexpr int rank = sizeof...(N);
  static constexpr long at[rank] = {N...};
  static constexpr long size = (N * ... * 1);
  static constexpr long last = at[rank - 1];

  // Row-major stride of dimension d.
  static constexpr long stride(int d) {
    long result = 1;
    for (int inner = d + 1; inner < rank; ++inner) result *= at[inner];
    return result;
  }
};

// Elements of T; Box: sizes; Shape: sizes of what it is cut from; Clipped: for each dimension, whether
// the box may reach over its end (then `valid` says how much is inside); Strides: of the dimensions of
// Shape in memory, row-major if void.
template <class T, class Box, class Shape = Box, class Clipped = void, class Strides = void>
struct Tile {
  using element = std::remove_const_t<T>;
  using carried = Carried<element>;
  using box = Box;
  static constexpr int rank = Box::rank;

  T* data;
  long valid[rank];

  static constexpr long stride(int d) {
    if constexpr (std::is_void_v<Strides>)
      return Shape::stride(d);
    else
      return Strides::at[d];
  }

  // Distance of neighbours along the last dimension; 0 where one element serves for all.
  static constexpr long step = Box::last == 1 ? 0 : stride(rank - 1);
  // Whether rows are contiguous: code that reads vectors through `data` needs it.
  static constexpr bool has_rows = Box::last == 1 || step == 1;

  long extent(int d) const {
    if constexpr (std::is_void_v<Clipped>) {
      return Box::at[d];
    } else {
      return Clipped::at[d] ? valid[d] : Box::at[d];
    }
  }

  // Offset of the element that NumPy's broadcasting pairs with `index`; its last entry counts as 0.
  template <int R>
  long row(const long (&index)[R]) const {
    static_assert(R >= rank);
    long sum = 0;
    for (int d = 0; d + 1 < rank; ++d)
      if (Box::at[d] != 1) sum += index[R - rank + d] * stride(d);
    return sum;
  }

  // Offset where the first dimensions have these indices and the others 0.
  template <int R>
  long leading(const long (&index)[R], int count) const {
    long sum = 0;
    for (int d = 0; d < count && d < rank; ++d) sum += index[d] * stride(d);
    return sum;
  }

  carried get(long offset) const { return widen(data[offset]); }
  template <class V>
  void put(long offset, V value) const {
    data[offset] = narrow<element>(value);
  }
};

// A tile that no operand is bound to: an optional parameter, or a result that nobody asked for.
struct None {};

template <class T>
inline constexpr bool is_none = std::is_same_v<T, None>;

// The box at `offset` of a buffer, or of a view whose first element is the buffer's number ORIGIN.
template <class T, class Box, class Shape, class Clipped = void, class Strides = void, long ORIGIN = 0,
          class... Offset>
Tile<T, Box, Shape, Clipped, Strides> tile(void* buffer, Offset... offset) {
  using Result = Tile<T, Box, Shape, Clipped, Strides>;
  const long first[] = {long(offset)...};
  static_assert(sizeof...(Offset) == Box::rank);
  Result result{static_cast<T*>(buffer) + ORIGIN, {}};
  for (int d = 0; d < Box::rank; ++d) {
    result.data += first[d] * Result::stride(d);
    const long left = Shape::at[d] - first[d];
    result.valid[d] = left < 0 ? 0 : (left < Box::at[d] ? left : Box::at[d]);
  }
  return result;
}

// A whole array of the worker's own, packed.
template <class T, class Box>
Tile<T, Box> local(T* data) {
  Tile<T, Box> result{data, {}};
  for (int d = 0; d < Box::rank; ++d) result.valid[d] = Box::at[d];
  return result;
}

// How far to go along each dimension of `lead`, where `others` broadcast to it and may be clipped.
template <class Lead, class... Others>
void common_extent(long (&count)[Lead::rank], const Lead& lead, const Others&... others) {
  for (int d = 0; d < Lead::rank; ++d) count[d] = lead.extent(d);
  [[maybe_unused]] const auto limit = [&](const auto& other) {
    using Other = std::decay_t<decltype(other)>;
    if constexpr (!is_none<Other>)
      for (int d = 0; d < Other::rank; ++d) {
        const int e = Lead::rank - Other::rank + d;
        if (Other::box::at[d] != 1 && other.extent(d) < count[e]) count[e] = other.extent(d);
      }
  };
  (limit(others), ...);
}

// Calls f(index) for every row: all dimensions but the last, whose index stays 0.
template <int R, class F>
void for_rows(const long (&count)[R], F&& f) {
  for (int d = 0; d < R; ++d)
    if (count[d] <= 0) return;
  long index[R] = {};
  for (;;) {
    f(index);
    int d = R - 2;
    while (d >= 0 && ++index[d] == count[d]) index[d--] = 0;
    if (d < 0) return;
  }
}

}  // namespace mpk
