// A loader that has the memory work on while the ring is full: the stages that come next are asked for
// into L2, at the pace at which memory could bring them, and from there on come sooner.
//
// It looks as far as the batch of tasks that are looked up reaches. A streaming body whose stages it
// may ask for says
//   static __device__ Stage stage_at(const Work&, int i);   what load issues as number i of the task;
//                                                           no bytes: there are no more
#pragma once
#include "queue.cuh"
#include "ring.cuh"

namespace mpk {

#ifndef MPK_WEIGHTS_AHEAD
#define MPK_WEIGHTS_AHEAD 8  // stages
#endif
#ifndef MPK_AHEAD_PACE
#define MPK_AHEAD_PACE 1300  // clock cycles for a whole slot: a worker's share of the memory
#endif

template <class B, class = void>
inline constexpr bool has_stages = false;
template <class B>
inline constexpr bool has_stages<B, typename Always<decltype(&B::stage_at)>::type> = true;

struct StageVisitor {
  const Work& work;
  int number;
  Stage stage{nullptr, 0};

  template <class B>
  __device__ __forceinline__ void visit() {
    if constexpr (B::streams && has_stages<B>) stage = B::stage_at(work, number);
  }
};

template <class P, int SLOTS>
struct AheadLoader : Loader<SLOTS, P::in_flight, P::ease, P::pace> {
  using Base = Loader<SLOTS, P::in_flight, P::ease, P::pace>;
  static constexpr int MOST = MPK_WEIGHTS_AHEAD;
  static constexpr int MORE = 2;  // stages in flight that come from L2
  static_assert(P::in_flight + MORE < SLOTS, "a stage in flight needs a slot of its own");

  const Queue& queue;
  int entry = 0, end = 0;  // of the task that is being loaded; behind the last that is looked up
  int stage = 0;           // that it issues next
  int asked = 0;           // stages from there on that have been asked for
  int next_entry = 0, next_stage = 0;  // the one behind these
  u32 last = 0;

  __device__ AheadLoader(Ring<SLOTS>& ring, const Queue& queue, const volatile int& leave, int lane)
      : Base(ring, leave, lane), queue(queue) {}

  __device__ __forceinline__ void begin(int entry_, int end_) {
    if (end != end_) asked = 0;
    entry = entry_, end = end_, stage = 0;
  }
  // Apart, or each body's loop would have all bodies in it; by value, so that nothing lives in memory.
  static __device__ __noinline__ Stage stage_of(const Work* work, int number) {
    StageVisitor visitor{*work, number};
    P::dispatch(work->body, visitor);
    return visitor.stage;
  }
  __device__ __forceinline__ void ask() {
    if (asked == MOST) return;
    const u32 now = from_first_lane(cycles());
    if (now - last < MPK_AHEAD_PACE) return;
    if (asked == 0) next_entry = entry, next_stage = stage;
    for (; next_entry < end; ++next_entry, next_stage = 0) {
      const Work* work = &queue.work[next_entry];
      if (work->body < 0) return;
      const Stage found = stage_of(work, next_stage);
      if (found.bytes == 0) continue;
      if (this->lane == 0) fetch_to_l2(found.source, found.bytes);
      ++next_stage, ++asked, last = now;
      return;
    }
  }
  __device__ __forceinline__ bool issue(const char* source, int bytes) {
    while (!__all_sync(0xffffffffu, this->ring.empty[this->next.slot].passed_within(this->next.parity ^ 1, 200))) {
      this->note_landed();
      if (__any_sync(0xffffffffu, this->leave)) return false;
      ask();
    }
    const bool early = asked > 0;
    asked -= early;
    ++stage;
    this->limit = P::in_flight + (early ? MORE : 0);
    return Base::issue(source, bytes);
  }
};

}  // namespace mpk
