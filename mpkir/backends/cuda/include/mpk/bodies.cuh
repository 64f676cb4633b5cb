// What the bodies of a program need of an SM: shared memory, which leaves the ring its slots, and registers.
#pragma once
#include "abi.cuh"
#include "queue.cuh"
#include "ring.cuh"

namespace mpk {

// Whether a streaming body's publisher reads sums.
template <class B, class = void>
inline constexpr bool publisher_sums = false;
template <class B>
inline constexpr bool publisher_sums<B, typename Always<decltype(&B::publisher_sums)>::type> = B::publisher_sums;

// Whether it looks at what compute warps have left among them, which are its task's alone till then: only a
// task that is offered does not wait for that.
template <class B, class = void>
inline constexpr bool publisher_looks = false;
template <class B>
inline constexpr bool publisher_looks<B, typename Always<decltype(&B::publisher_looks)>::type> =
    B::publisher_looks;

// Whether a streaming body's compute warps need more registers than a block's warps have alike: of so many
// rows of x, and where x comes in passes through shared memory, with the words of the next on their way.
template <class B, class = void>
struct Registers {
  static constexpr bool are_moved(int) { return false; }
};
template <class B>
struct Registers<B, typename Always<decltype(&B::in_passes)>::type> {
  static constexpr bool are_moved(int from) { return B::in_passes || B::T >= from; }
};

// What the bodies of a program need of shared memory at most, and of registers.
template <class... B>
struct Bodies {
  static constexpr bool move_registers(int from) { return from > 0 && (Registers<B>::are_moved(from) || ...); }
  static constexpr bool published_sums = (publisher_sums<B> || ...);
  static constexpr bool published_looks = (publisher_looks<B> || ...);

  static constexpr int largest(const int* sizes, int count) {
    int result = 16;
    for (int i = 0; i < count; ++i) result = most(result, (sizes[i] + 15) / 16 * 16);
    return result;
  }
  static constexpr int scratch(bool streams) {
    const int sizes[] = {0, (B::streams == streams ? B::scratch_bytes : 0)...};
    return largest(sizes, 1 + sizeof...(B));
  }
  static constexpr int partial() {
    const int sizes[] = {0, B::partial_bytes...};
    return largest(sizes, 1 + sizeof...(B));
  }
};

// What streaming bodies have of it, x of each warp and then sums, cooperative ones have, too, unless a
// publisher may still read sums.
template <class P>
struct Layout {
  static constexpr int PARTIAL = P::bodies::partial();
  // Of sums: one that is read and one for the next task; one alone where that takes more than half of
  // what a slot of the ring does, and only compute warps read it.
#ifdef MPK_SUMS_APART
  static constexpr bool APART = true;
#else
  static constexpr bool APART = P::bodies::published_sums || (P::dynamic && P::bodies::published_looks);
#endif
  static constexpr int BUFFERS = APART || PARTIAL <= SLOT / 2 ? 2 : 1;
  static constexpr int OWN = P::bodies::scratch(true), SCRATCH = P::bodies::scratch(false);
  static constexpr int SUMS = OWN + BUFFERS * PARTIAL;
  static constexpr int MEMORY = APART ? SUMS + SCRATCH : most(SUMS, SCRATCH);
  static constexpr int FIXED = int(sizeof(Queue)) + MEMORY + 1024;
  static constexpr int SLOTS = least(P::ring_slots, (P::shared_bytes - FIXED) / (SLOT + 16));
  static_assert(SLOTS > P::in_flight, "too little shared memory for the ring beside these bodies");
  // A smaller ring is not filled more slowly while it holds as little.
  static constexpr int EASE = most(0, P::ease - (P::ring_slots - SLOTS));
};

}  // namespace mpk
