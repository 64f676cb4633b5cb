// The shared-memory ring that weights stream through, and the loader's side of it.
//
// A stage is at most SLOT bytes. `full` completes when the bytes of a stage have landed, `empty`
// when all compute warps have read it. The loader keeps at most IN_FLIGHT stages issued and not
// landed: deeper queues in the memory system only delay everybody's polls and activations. For the
// same reason it takes its time while the ring is nearly full: at most EASE slots free, a stage every
// `pace` clock cycles. What a stage leaves room for is so not asked for just when everybody waits for
// what that stage computed.
//
// Where layers wait longer than a ring holds, the memory would have nothing to do then: the loader asks
// for stages behind a full ring into L2, at the same pace.
#pragma once
#include "queue.cuh"
#include "sync.cuh"
#include "trace.cuh"

namespace mpk {

constexpr int SLOT = 16384;
constexpr u32 NOTED_WITHIN = 250;  // nanoseconds that a trace may be late with a landing

template <int SLOTS>
struct Ring {
  alignas(128) char slot[SLOTS][SLOT];
  Barrier full[SLOTS];
  Barrier empty[SLOTS];

  // Thread `first` of `threads`, each its part.
  __device__ __forceinline__ void init(int first, int threads) {
    for (int i = first; i < SLOTS; i += threads) {
#if __CUDA_ARCH__ >= 900
      full[i].init(1);
#else
      full[i].init(32);  // each lane of the loader arrives when its own copies have landed
#endif
      empty[i].init(COMPUTE_WARPS * ARRIVING);
    }
  }
};

// A place in the ring, and the parity of the round it is in.
template <int SLOTS>
struct RingCursor {
  int slot = 0;
  u32 parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == SLOTS) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// As fast as it goes.
struct Unpaced {
  static constexpr int pace = 0, long_pace = 0, long_from = 0, ahead = 0;
};

// The loader's state. All 32 lanes call every method together. Stream says
//   static constexpr int pace;                  clock cycles
//   static constexpr int long_pace, long_from;  the same from a position on, 0: none, from which caches are long
//   static constexpr int ahead;                 most stages into L2
// What is not needed is not compiled: each instruction between a landing and the next copy is bandwidth.
template <int SLOTS, int IN_FLIGHT, int EASE = 0, class Stream = Unpaced>
struct Loader {
  static_assert(IN_FLIGHT < SLOTS, "a stage in flight needs a slot of its own");

  Ring<SLOTS>& ring;
  const volatile int& leave;  // set once the worker gives up: nobody will empty a slot any more
  int lane;
  RingCursor<SLOTS> next;      // the slot to fill
  RingCursor<SLOTS> landing;   // the oldest stage that may still be in flight
  int in_flight = 0, limit = IN_FLIGHT;
  u32 issued_at = 0;  // clock cycles, of the stage before
  u32 asked_at = 0;   // of one that was asked for into L2
  int ahead = 0;      // how many that come next have been
  u32 pace = Stream::pace;
  Upcoming tasks;
  StageMarks marks;
  u64 used_once = 0;  // the L2 policy of weights: first out, so that caches and activations stay

  __device__ Loader(Ring<SLOTS>& ring, const volatile int& leave, int lane)
      : ring(ring), leave(leave), lane(lane), marks(lane) {
#if __CUDA_ARCH__ >= 900 && !defined(MPK_WEIGHTS_STAY)
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(used_once));
#elif __CUDA_ARCH__ >= 900
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(used_once));
#endif
  }

  static constexpr bool looks = Stream::ahead > 0;

  __device__ __forceinline__ void begin(const Work& work, const Upcoming& upcoming) {
    if constexpr (looks) tasks = upcoming;
    if constexpr (Stream::long_from > 0)
      pace = work.position >= Stream::long_from ? Stream::long_pace : Stream::pace;
    marks.begin(work);
  }

  __device__ __forceinline__ void land_one() {
    ring.full[landing.slot].wait(landing.parity);
    landing.advance();
    --in_flight;
  }
  // What has landed by now; for a trace, which is to say when it did.
  __device__ __forceinline__ void note_landed() {
    if constexpr (TRACED) {
      while (in_flight > 0 &&
             __all_sync(0xffffffffu, ring.full[landing.slot].passed_now(landing.parity))) {
        land_one();
        marks.landed();
      }
    }
  }
  __device__ __forceinline__ bool next_is_empty() {
    // A trace looks at landings meanwhile, now and then: a loader that spins is in others' way.
    if (TRACED && in_flight > 0)
      return ring.empty[next.slot].passed_within(next.parity ^ 1, NOTED_WITHIN);
    return ring.empty[next.slot].passed(next.parity ^ 1);
  }

  // Whether no more than EASE slots, the next among them, are free.
  __device__ __forceinline__ bool nearly_full() {
    const int ahead = next.slot + EASE;
    const bool wraps = ahead >= SLOTS;
    return !ring.empty[wraps ? ahead - SLOTS : ahead].passed_now(next.parity ^ u32(wraps) ^ 1);
  }
  __device__ __forceinline__ void keep_pace() {
    if constexpr (Stream::pace > 0 && EASE > 0 && EASE < SLOTS) {
      if (looks && ahead > 0) return;  // it does not come from memory
      while (cycles() - issued_at < pace && nearly_full()) {
      }
      issued_at = cycles();
    }
  }
  // Asks for one more stage behind the ring, if it is time; whether there may be more.
  template <class Next>
  __device__ __forceinline__ bool look_ahead(Next upcoming, int bytes) {
    if (ahead >= Stream::ahead) return false;
    const u32 now = cycles();
    if (now - issued_at < pace || now - asked_at < pace) return true;
    const char* const source = upcoming(ahead);
    if (source == nullptr) return false;
    if (lane == 0) fetch_to_l2(source, bytes);
    asked_at = now;
    ++ahead;
    return true;
  }

  // Starts the copy of one stage; false if the worker gives up meanwhile. bytes % 16 == 0.
  __device__ __forceinline__ bool issue(const char* source, int bytes) {
    marks.asked();
    while (!__all_sync(0xffffffffu, next_is_empty())) {
      note_landed();
      if (__any_sync(0xffffffffu, leave)) return false;
    }
    start(source, bytes);
    return true;
  }
  // The same, and while the ring is full it looks further: upcoming(k) is where the k-th stage from this one on
  // lies, of as many bytes; nullptr where nobody knows.
  template <class Next>
  __device__ __forceinline__ bool issue(const char* source, int bytes, Next upcoming) {
    marks.asked();
    bool more = true;
    while (!__all_sync(0xffffffffu, more ? ring.empty[next.slot].passed_now(next.parity ^ 1) : next_is_empty())) {
      if (more) more = look_ahead(upcoming, bytes);
      note_landed();
      if (__any_sync(0xffffffffu, leave)) return false;
    }
    start(source, bytes);
    return true;
  }
  // A stage of two parts of as many bytes, each in its half of the slot, of what will be read again.
  __device__ __forceinline__ bool issue_both(const char* first, const char* second, int bytes) {
    marks.asked();
    while (!__all_sync(0xffffffffu, next_is_empty())) {
      note_landed();
      if (__any_sync(0xffffffffu, leave)) return false;
    }
    start(first, bytes, second);
    return true;
  }
  // With a slot that is free.
  template <class... Second>
  __device__ __forceinline__ void start(const char* source, int bytes, Second... second) {
    constexpr int PARTS = 1 + int(sizeof...(Second));
    [[maybe_unused]] const char* const sources[] = {source, second...};
    marks.has_slot();
    int landed = 0;
    for (; in_flight >= limit; ++landed) land_one();
    keep_pace();
    char* target = ring.slot[next.slot];
    Barrier& full = ring.full[next.slot];
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                       shared_address(&full)), "r"(PARTS * bytes) : "memory");
      if constexpr (PARTS == 1) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1],"
            " %2, [%3], %4;"
            ::"r"(shared_address(target)), "l"(source), "r"(bytes), "r"(shared_address(&full)),
            "l"(used_once) : "memory");
      } else {
#pragma unroll
        for (int i = 0; i < PARTS; ++i) {
          const char* const from = sources[i];
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
              ::"r"(shared_address(target + i * (SLOT / PARTS))), "l"(from), "r"(bytes),
              "r"(shared_address(&full)) : "memory");
        }
      }
    }
#else
#pragma unroll
    for (int i = 0; i < PARTS; ++i)
      for (int at = 16 * lane; at < bytes; at += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         shared_address(target + i * (SLOT / PARTS) + at)), "l"(sources[i] + at) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&full))
                 : "memory");
#endif
    __syncwarp();
#pragma unroll 1
    for (; landed > 0; --landed) marks.landed();
    marks.issued(PARTS * bytes);
    if (looks && ahead > 0) --ahead;
    ++in_flight;
    next.advance();
  }

  // Before the CTA may end: no copy into its shared memory may be pending.
  __device__ __forceinline__ void drain() {
    while (in_flight > 0) {
      land_one();
      marks.landed();
    }
    marks.over();
  }
};

}  // namespace mpk
