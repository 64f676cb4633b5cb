// A ring whose copies land at once.
#pragma once
#include "queue.cuh"
#include "sync.cuh"
#include "trace.cuh"

namespace mpk {

constexpr int SLOT = 64;

template <int SLOTS>
struct Ring {
  char slot[SLOTS][SLOT];
  Barrier full[SLOTS];
  Barrier empty[SLOTS];

  void init(int, int) {
    for (int i = 0; i < SLOTS; ++i) full[i].init(1), empty[i].init(COMPUTE_WARPS);
  }
};

template <int SLOTS>
struct RingCursor {
  int slot = 0;
  u32 parity = 0;

  void advance() {
    if (++slot == SLOTS) slot = 0, parity ^= 1;
  }
};

template <int SLOTS, int IN_FLIGHT, int EASE = 0, class Stream = void>
struct Loader {
  Ring<SLOTS>& ring;
  const volatile int& leave;
  int lane;
  RingCursor<SLOTS> next;
  StageMarks marks;

  Loader(Ring<SLOTS>& ring, const volatile int& leave, int lane)
      : ring(ring), leave(leave), lane(lane), marks(lane) {}
  void begin(const Work& work, const Upcoming&) { marks.begin(work); }
  void note_landed() {}
  bool issue(const char* source, int bytes) { return issue_both(source, source, bytes); }
  bool issue_both(const char* first, const char* second, int bytes) {
    while (!ring.empty[next.slot].passed(next.parity ^ 1))
      if (leave) return false;
    std::memcpy(ring.slot[next.slot], first, bytes);
    std::memcpy(ring.slot[next.slot] + SLOT / 2, second, bytes);
    ring.full[next.slot].arrive();
    next.advance();
    return true;
  }
  void drain() {}
};

}  // namespace mpk
