// GPUs that run one program together, called ranks, and what they do to each other's memory.
//
// Exchange buffers and event counters lie at the same places of every rank's heap, all of which every
// rank can write. An exchange buffer has a row for each rank: a rank writes its own row, in the
// memory of all, and reads all rows in its own memory. So nobody reads through a link.
//
// A printed program says how many ranks there are by
//   #define MPK_RANKS 4
// before it includes anything; without that it is one rank's, and knows no others. With MPK_ALONE a
// program of several ranks needs no others either, to see what they cost: what all of them would send
// it sends itself, so that it waits for itself only.
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

// An element of the own row, to all ranks.
template <int ROW, class T, class V>
__device__ __forceinline__ void publish_all(Exchanged<T>* p, V v, const Work& work) {
  const auto word = tagged_word<T>(v, work);
#pragma unroll
  for (int r = 0; r < RANKS; ++r) store_word<true>(at_rank<ROW>(p, r), word);
}
template <int ROW, class T, class V>
__device__ __forceinline__ void store_all(T* p, V v) {
  const T value = convert<T>(v);
#pragma unroll
  for (int r = 0; r < RANKS; ++r) *at_rank<ROW>(p, r) = value;
}

// Adds to an event's counter, at all ranks if it is one of theirs. What was done before, by this
// thread and those it has met at a barrier, is before what a task does that has seen the counter.
__device__ __forceinline__ void add_release(const LaunchArgs& args, int event, u32 amount) {
  u32* counter = args.counters + event;
  if (event < mpk_peers.first_peer_event) return add_release(counter, amount);
#ifdef MPK_ALONE
  add_release(counter, RANKS * amount);
#else
  fence_system();
#pragma unroll
  for (int r = 0; r < RANKS; ++r) add_system(at_rank<1>(counter, r), amount);
#endif
}
__device__ __forceinline__ u32 load_event(const u32* counter) { return load_acquire_system(counter); }

}  // namespace mpk

#else

namespace mpk {

__device__ __forceinline__ void add_release(const LaunchArgs& args, int event, u32 amount) {
  add_release(args.counters + event, amount);
}
__device__ __forceinline__ u32 load_event(const u32* counter) { return load_acquire(counter); }

}  // namespace mpk

#endif
