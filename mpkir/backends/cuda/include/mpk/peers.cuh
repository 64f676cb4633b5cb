// GPUs that run one program together, called ranks, and what they do to each other's memory.
//
// Exchange buffers and event counters lie at the same places of every rank's heap, all of which every
// rank can write. An exchange buffer has a row for each rank: a rank writes its own row, in the
// memory of all, or in each another part of a value, and reads all rows in its own memory. So nobody
// reads through a link.
//
// A printed program says how many ranks there are by
//   #define MPK_RANKS 4
// before it includes anything; without that it is one rank's, and knows no others. With MPK_ALONE a
// program of several ranks needs no others either, to see what they cost: what all of them would send
// it sends itself, so that it waits for itself only. With MPK_NVSHMEM some of them may be far: on
// hosts that only a network connects (nvshmem.cuh).
#pragma once
#include "abi.cuh"
#include "sync.cuh"

#ifndef MPK_RANKS
#define MPK_RANKS 1
#endif

namespace mpk {

constexpr int RANKS = MPK_RANKS;
static_assert(1 <= RANKS && RANKS <= MAX_RANKS, "ranks");

}  // namespace mpk

#if MPK_RANKS > 1
#include "tagged.cuh"

#if defined(MPK_NVSHMEM) && !defined(MPK_ALONE)
#define MPK_FAR
#include "nvshmem.cuh"
#endif

// Set by the host before the first launch.
extern "C" {
__constant__ mpk::Peers mpk_peers;
}

namespace mpk {

__device__ __forceinline__ int own_rank() { return mpk_peers.rank; }

// Where rank r has what is at `p` here, which is in an own row of ROW elements.
template <int ROW, class X>
__device__ __forceinline__ X* at_rank(X* p, int r) {
#ifdef MPK_ALONE
  return p + i64(r - own_rank()) * ROW;
#else
  return reinterpret_cast<X*>(reinterpret_cast<char*>(p) + mpk_peers.delta[r]);
#endif
}

// Writes where rank r has what is at `p` here; words are stored whole.
template <int ROW, class W>
__device__ __forceinline__ void send_word(W* p, W word, int r) {
#ifdef MPK_FAR
  if (is_far(r)) return put_far(p, word, r);
#endif
  store_word<true>(at_rank<ROW>(p, r), word);
}
template <int ROW, class T>
__device__ __forceinline__ void send(T* p, T value, int r) {
#ifdef MPK_FAR
  if (is_far(r)) return put_far(p, value, r);
#endif
  *at_rank<ROW>(p, r) = value;
}

// An element of the own row, to all ranks.
template <int ROW, class T, class V>
__device__ __forceinline__ void publish_all(Exchanged<T>* p, V v, const Work& work) {
  const auto word = tagged_word<T>(v, work);
#pragma unroll
  for (int r = 0; r < RANKS; ++r) send_word<ROW>(&p->word, word, r);
}
template <int ROW, class T, class V>
__device__ __forceinline__ void store_all(T* p, V v) {
  const T value = convert<T>(v);
#pragma unroll
  for (int r = 0; r < RANKS; ++r) send<ROW>(p, value, r);
}

// An element of a value of which each rank gets one of COUNT parts, neighbours the same where there
// are fewer than ranks: to those whose part number `part` is. `p` is its place in the own row.
template <int ROW, int COUNT, class T, class V>
__device__ __forceinline__ void publish_part(Exchanged<T>* p, V v, const Work& work, int part) {
  constexpr int ALIKE = RANKS / COUNT;
  const auto word = tagged_word<T>(v, work);
#pragma unroll
  for (int r = 0; r < ALIKE; ++r) send_word<ROW>(&p->word, word, part * ALIKE + r);
}
template <int ROW, int COUNT, class T, class V>
__device__ __forceinline__ void store_part(T* p, V v, int part) {
  constexpr int ALIKE = RANKS / COUNT;
  const T value = convert<T>(v);
#pragma unroll
  for (int r = 0; r < ALIKE; ++r) send<ROW>(p, value, part * ALIKE + r);
}

// Adds to an event's counter, at all ranks if it is one of theirs. What was done before, by this
// thread and those it has met at a barrier, is before what a task does that has seen the counter.
// That holds for whoever learns of it from a third rank, too, so what was put into far ranks' memory
// is complete before anybody is told.
__device__ __forceinline__ void add_release(const LaunchArgs& args, int event, u32 amount) {
  u32* counter = args.counters + event;
  if (event < mpk_peers.first_peer_event) return add_release(counter, amount);
#ifdef MPK_ALONE
  add_release(counter, RANKS * amount);
#else
#ifdef MPK_FAR
  if (mpk_far.ranks != 0) nvshmem_quiet();
#endif
  fence_system();
#pragma unroll
  for (int r = 0; r < RANKS; ++r) {
#ifdef MPK_FAR
    if (is_far(r)) continue;
#endif
    add_system(at_rank<1>(counter, r), amount);
  }
#ifdef MPK_FAR
  if (mpk_far.ranks != 0) tell_far<RANKS>(counter, amount, own_rank());
#endif
#endif
}
// How often an event has been signalled, as far as this rank knows.
__device__ __forceinline__ u32 load_event(const u32* counter) {
#ifdef MPK_FAR
  return load_acquire_system(counter) + told_by_far<RANKS>(counter);
#else
  return load_acquire_system(counter);
#endif
}
// The same for who reports a failed launch.
__device__ __forceinline__ u32 reported_event(const u32* counter) {
#ifdef MPK_FAR
  return load_event(counter);
#else
  return load_acquire(counter);
#endif
}
// Who has found an event signalled as often as it waits for calls this before it goes on.
__device__ __forceinline__ void see_event([[maybe_unused]] const u32* counter) {
#ifdef MPK_FAR
  see_far(counter);
#endif
}

}  // namespace mpk

#else

namespace mpk {

__device__ __forceinline__ void add_release(const LaunchArgs& args, int event, u32 amount) {
  add_release(args.counters + event, amount);
}
__device__ __forceinline__ u32 load_event(const u32* counter) { return load_acquire(counter); }
__device__ __forceinline__ u32 reported_event(const u32* counter) { return load_acquire(counter); }
__device__ __forceinline__ void see_event(const u32*) {}

}  // namespace mpk

#endif
