// Stand-ins for sync.cuh, ring.cuh and types.cuh: a warp is one thread of the host, so that the
// roles of the kernel (runtime.cuh, queue.cuh, dynamic.cuh, as they are) run without a GPU.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <atomic>
#include <cstring>

#define __device__
#define __forceinline__ inline
#define __shared__
#define __align__(n)

struct alignas(16) int4 {
  int x, y, z, w;
};
struct Index {
  int x = 0;
};
inline thread_local Index threadIdx, blockIdx;
inline Index gridDim;
inline thread_local pthread_barrier_t* compute_barrier;

inline void __syncthreads() {}
inline void __syncwarp() {}
inline bool __all_sync(unsigned, bool v) { return v; }
inline bool __any_sync(unsigned, bool v) { return v; }
inline int atomicCAS(int* p, int expected, int value) {
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}

namespace mpk {

template <class T>
struct Always {
  using type = void;
};

using i64 = long long;
using u32 = unsigned int;
using u64 = unsigned long long;
constexpr int least(int a, int b) { return a < b ? a : b; }
constexpr int most(int a, int b) { return a < b ? b : a; }

constexpr int WARP = 1;
constexpr int COMPUTE_WARPS = 2, COMPUTE_THREADS = 32 * COMPUTE_WARPS;
constexpr int ARRIVING = 1;

// Arrivals that are missing << 32 | phases over.
struct Barrier {
  std::atomic<u64> word;
  u64 arrivals;

  void init(int count) {
    arrivals = u64(count);
    word = arrivals << 32;
  }
  void arrive() {
    u64 before = word.load(), after;
    do {
      after = before - (u64(1) << 32);
      if (after >> 32 == 0) after = arrivals << 32 | u32(u32(before) + 1);
    } while (!word.compare_exchange_weak(before, after));
  }
  bool passed_now(u32 parity) {
    const bool result = (word.load() & 1) != parity;
    if (!result) sched_yield();
    return result;
  }
  bool passed(u32 parity) { return passed_now(parity); }
  void wait(u32 parity) {
    while (!passed(parity)) {
    }
  }
};

inline void arrive_warp(Barrier& barrier, int) { barrier.arrive(); }
inline void finish_reads() {}
inline void publish_barriers() {}
inline void compute_sync() { pthread_barrier_wait(compute_barrier); }
inline u32 from_first_lane(u32 v) { return v; }

inline u32 load_acquire(const u32* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline int load_relaxed(const int* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
inline u64 load_relaxed(const u64* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
inline void store_release(u64* p, u64 v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
inline void add_release(u32* p, u32 v) { __atomic_fetch_add(p, v, __ATOMIC_RELEASE); }
inline u32 add_acquire_release(u32* p, u32 v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
inline u32 take_number(u64* p) { return u32(__atomic_fetch_add(p, 1, __ATOMIC_RELAXED)); }
inline u64 replace(u64* p, u64 expected, u64 value) {
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline void store_system(u64* p, u64 v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
inline void acquire_fence() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }
inline i64 nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

}  // namespace mpk
