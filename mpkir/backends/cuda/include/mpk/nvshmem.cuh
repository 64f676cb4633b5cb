// Far ranks: those whose memory has no address here, because only a network lies between. NVSHMEM's
// device API puts words into their heaps, which are its symmetric heaps.
//
// What is relied on (docs.nvidia.com/nvshmem/api: Memory Model, Memory Ordering, Point-To-Point
// Synchronization), and nothing else:
// - an aligned element of 1, 2, 4 or 8 bytes that is put by itself arrives whole, as NVSHMEM's own
//   fcollect has it of words with a mark. So tagged words need no order: who finds the tag has the
//   value.
// - nvshmem_quiet completes, at all ranks, what this rank has put before: the caller, and those whom
//   it has met at a barrier or through an event.
// - what was completed before an element was put is visible behind an nvshmem_..._test of it.
//
// Far ranks do not add to a counter: NVSHMEM's atomics and those of a GPU are not atomic to each
// other, and own and near ranks add to it as ever. Each rank counts for itself what its own tasks
// have added to an event of the peers; who completes that for a step puts the sum into a place that
// far ranks keep for it. Nobody else writes there, and from one step to the next the sums only rise.
#pragma once
#include <nvshmem.h>

#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

// Set by the host before the first launch. Places are of the peers' events, in their order.
struct Far {
  u32 ranks;            // bit r: rank r is far; of two ranks, both are far from each other or none
  int events;           // of peers
  const u32* counters;  // of them: own and near ranks' arrivals
  u64* own;             // what own tasks have added to each
  const u32* steps;     // what they add in a step
  u32* told;            // in the heap, [ranks][events]: what far ranks have told of theirs
};

}  // namespace mpk

extern "C" {
__constant__ mpk::Far mpk_far;
}

namespace mpk {

template <class To, class From>
__device__ __forceinline__ To bits_of(const From& value) {
  To bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

__device__ __forceinline__ bool is_far(int r) { return (mpk_far.ranks >> r & 1) != 0; }

// Writes a word where rank r has what is at `p` here.
template <class X>
__device__ __forceinline__ void put_far(X* p, X value, int r) {
  static_assert(sizeof(X) == 1 || sizeof(X) == 2 || sizeof(X) == 4 || sizeof(X) == 8, "one word");
  if constexpr (sizeof(X) == 1) {
    nvshmem_uchar_p(reinterpret_cast<unsigned char*>(p), bits_of<unsigned char>(value), r);
  } else if constexpr (sizeof(X) == 2) {
    nvshmem_ushort_p(reinterpret_cast<unsigned short*>(p), bits_of<unsigned short>(value), r);
  } else if constexpr (sizeof(X) == 4) {
    nvshmem_uint_p(reinterpret_cast<u32*>(p), bits_of<u32>(value), r);
  } else {
    nvshmem_ulonglong_p(reinterpret_cast<u64*>(p), bits_of<u64>(value), r);
  }
}

// Which of the peers' events a counter is; negative: none of them.
__device__ __forceinline__ int peer_event(const u32* counter) {
  return int(counter - mpk_far.counters);
}

// Behind nvshmem_quiet: far ranks learn of an arrival when it is the last of a step here.
template <int RANKS>
__device__ __forceinline__ void tell_far(const u32* counter, u32 amount, int rank) {
  const int event = peer_event(counter);
  const u64 sum = add_acquire_release(mpk_far.own + event, u64(amount));
  if (sum % mpk_far.steps[event] != 0) return;
#pragma unroll 1
  for (int r = 0; r < RANKS; ++r)
    if (is_far(r)) nvshmem_uint_p(mpk_far.told + rank * mpk_far.events + event, u32(sum), r);
}

// All that far ranks have told of a counter's event.
template <int RANKS>
__device__ __forceinline__ u32 told_by_far(const u32* counter) {
  const int event = peer_event(counter);
  if (event < 0 || mpk_far.ranks == 0) return 0;
  u32 sum = 0;
#pragma unroll 1
  for (int r = 0; r < RANKS; ++r)
    if (is_far(r)) sum += load_acquire_system(mpk_far.told + r * mpk_far.events + event);
  return sum;
}

// What far ranks had put before they told of that event is here. One test is enough for all: what
// it does beside comparing is to have the network's writes before it seen, whoever sent them.
__device__ __forceinline__ void see_far(const u32* counter) {
  const int event = peer_event(counter);
  if (event < 0 || mpk_far.ranks == 0) return;
  const int r = __ffs(int(mpk_far.ranks)) - 1;
  nvshmem_uint_test(mpk_far.told + r * mpk_far.events + event, NVSHMEM_CMP_GE, 0u);
}

}  // namespace mpk
