// What ranks write for each other: the own row of an exchange buffer goes to every rank's memory.
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

}  // namespace mpk
