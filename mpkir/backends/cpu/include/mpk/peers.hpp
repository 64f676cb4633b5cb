// What ranks write for each other: the own row of an exchange buffer goes to every rank's memory, or
// to each another part of a value.
#pragma once

#include "mpk/abi.hpp"
#include "mpk/tile.hpp"

namespace mpk {

// Where something of the own heap lies in that of rank r. With MPK_ALONE everything stays at home, to
// time a step that waits for no other rank; its results mean nothing.
template <class T>
T* at_rank(T* own, [[maybe_unused]] const Peers& peers, [[maybe_unused]] int r) {
#ifdef MPK_ALONE
  return own;
#else
  return reinterpret_cast<T*>(reinterpret_cast<char*>(own) + peers.delta[r]);
#endif
}

// The own row of an exchange buffer whose rows have `size` elements of T.
template <class T>
T* own_row(void* buffer, const Peers& peers, long size) {
  return static_cast<T*>(buffer) + peers.rank * size;
}

// Copies a tile that has been computed in the own memory to all other ranks. The task's signal, a
// release at each of them, publishes it.
template <class Tile>
void store_all(const Tile& own, const Peers& peers) {
  long count[Tile::rank];
  for (int d = 0; d < Tile::rank; ++d) count[d] = own.extent(d);
  for (int r = 0; r < peers.ranks; ++r) {
    if (r == peers.rank) continue;
    auto* const theirs = at_rank(own.data, peers, r);
    for_rows(count, [&](const auto& index) {
      const long first = own.row(index);
      for (long k = 0; k < count[Tile::rank - 1]; ++k)
        theirs[first + k * Tile::step] = own.data[first + k * Tile::step];
    });
  }
}

// The box at `first` of a value of Shape of which each rank gets one of COUNT parts of SIZE along DIM,
// neighbours the same where there are fewer than ranks. A part lies with these Strides in the row.
template <class T, class Box, class Shape, class Strides, int DIM, long SIZE, long COUNT>
struct Scattered {
  T* own_row;
  long first[Box::rank];
};

// Sends a tile that has been computed in scratch to the ranks whose parts it has elements of.
template <class T, class Box, class Shape, class Strides, int DIM, long SIZE, long COUNT, class In>
void scatter_all(const Scattered<T, Box, Shape, Strides, DIM, SIZE, COUNT>& out, const In& in,
                 const Peers& peers) {
  constexpr int rank = Box::rank;
  static_assert(In::rank == rank);
  for (int r = 0; r < peers.ranks; ++r) {
    const long begin = r * COUNT / peers.ranks * SIZE;
    long count[rank], from = 0, to = 0;
    for (int d = 0; d < rank; ++d) {
      const long low = d == DIM ? begin : 0, high = d == DIM ? begin + SIZE : Shape::at[d];
      const long skip = out.first[d] < low ? low - out.first[d] : 0;
      const long end = out.first[d] + Box::at[d] < high ? out.first[d] + Box::at[d] : high;
      count[d] = end - out.first[d] - skip;
      from += skip * In::stride(d);
      to += (out.first[d] + skip - low) * Strides::at[d];
    }
    T* const theirs = at_rank(out.own_row, peers, r);
    for_rows(count, [&](const auto& index) {
      long source = from, target = to;
      for (int d = 0; d + 1 < rank; ++d) {
        source += index[d] * In::stride(d);
        target += index[d] * Strides::at[d];
      }
      for (long k = 0; k < count[rank - 1]; ++k)
        theirs[target + k * Strides::last] = narrow<T>(in.get(source + k * In::stride(rank - 1)));
    });
  }
}

}  // namespace mpk
