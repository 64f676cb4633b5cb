// Everything that orders one thread after another: mbarriers and named barriers inside a CTA,
// counters in global memory between CTAs.
#pragma once
#include "types.cuh"

namespace mpk {

constexpr int WARP = 32;
constexpr int COMPUTE_WARPS = 8;
constexpr int COMPUTE_THREADS = 32 * COMPUTE_WARPS;

// An mbarrier in shared memory. A waiter names the parity of the phase that must be over; waiting
// for parity 1 on a fresh barrier returns at once, which is how "empty" barriers start.
struct Barrier {
  u64 word;

  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(
                     shared_address(this)) : "memory");
  }
  __device__ __forceinline__ bool passed(u32 parity) {
    u32 done;
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
        " selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared_address(this)), "r"(parity) : "memory");
#else
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2;"
        " selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared_address(this)), "r"(parity) : "memory");
#endif
    return done != 0;
  }
  // The same, for a while of about so many nanoseconds.
  __device__ __forceinline__ bool passed_within(u32 parity, u32 most) {
#if __CUDA_ARCH__ >= 900
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;"
        " selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(shared_address(this)), "r"(parity), "r"(most) : "memory");
    return done != 0;
#else
    return passed(parity);
#endif
  }
  // The same, at once, where a thread has to look at something else besides.
  __device__ __forceinline__ bool passed_now(u32 parity) {
    u32 done;
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2;"
        " selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared_address(this)), "r"(parity) : "memory");
    return done != 0;
  }
  __device__ __forceinline__ void wait(u32 parity) {
    while (!passed(parity)) {
    }
  }
};

// Lanes of a warp that arrive at a barrier in its name. One is enough after a __syncwarp; with
// MPK_CHECKED all do, because a race checker follows threads and knows nothing of warps.
#ifdef MPK_CHECKED
constexpr int ARRIVING = 32;
#else
constexpr int ARRIVING = 1;
#endif

// A warp's arrival: what any of its lanes did before is before what a waiter does next.
__device__ __forceinline__ void arrive_warp(Barrier& barrier, int lane) {
  __syncwarp();
  if (lane < ARRIVING) barrier.arrive();
}

// Behind reads of shared memory that the copy engine may write once a barrier has been told: they have
// their values before. Without it ptxas lets a warp arrive while its loads are on their way, and where
// shared memory is busy, copies overtake them (with 8 tokens one stage in three million).
__device__ __forceinline__ void finish_reads() { __threadfence_block(); }

// Behind writes that the copy engine will read, once a barrier has been told.
__device__ __forceinline__ void finish_writes() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

// Makes initialised barriers visible to the copy engine; a __syncthreads must follow.
__device__ __forceinline__ void publish_barriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// All compute warps, nobody else.
__device__ __forceinline__ void compute_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(COMPUTE_THREADS) : "memory");
}

__device__ __forceinline__ u32 load_acquire(const u32* p) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ int load_relaxed(const int* p) {
  int v;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void add_release(u32* p, u32 amount) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(amount) : "memory");
}
// The same among all GPUs.
__device__ __forceinline__ u32 load_acquire_system(const u32* p) {
  u32 v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
__device__ __forceinline__ void add_system(u32* p, u32 amount) {
  asm volatile("red.relaxed.sys.global.add.u32 [%0], %1;" ::"l"(p), "r"(amount) : "memory");
}
__device__ __forceinline__ u32 from_first_lane(u32 v) { return __shfl_sync(0xffffffffu, v, 0); }
// Adds and says what the result is.
__device__ __forceinline__ u32 add_acquire_release(u32* p, u32 amount) {
  u32 before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before) : "l"(p), "r"(amount) : "memory");
  return before + amount;
}
__device__ __forceinline__ u64 add_acquire_release(u64* p, u64 amount) {
  u64 before;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;"
               : "=l"(before) : "l"(p), "l"(amount) : "memory");
  return before + amount;
}
// Adds one and says what was there before.
__device__ __forceinline__ u32 take_number(u64* p) {
  u64 before;
  asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;"
               : "=l"(before) : "l"(p), "l"(u64(1)) : "memory");
  return u32(before);
}
__device__ __forceinline__ u64 load_relaxed(const u64* p) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_release(u64* p, u64 value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(value) : "memory");
}
// Replaces `expected`; what was there before.
__device__ __forceinline__ u64 replace(u64* p, u64 expected, u64 value) {
  u64 before;
  asm volatile("atom.relaxed.gpu.global.cas.b64 %0, [%1], %2, %3;"
               : "=l"(before) : "l"(p), "l"(expected), "l"(value) : "memory");
  return before;
}
// Whole, for whoever looks at it from anywhere; orders nothing.
__device__ __forceinline__ void store_system(u64* p, u64 value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(value) : "memory");
}
// What was read before this, of what others released, is before all that follows.
__device__ __forceinline__ void acquire_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
__device__ __forceinline__ u32 cycles() {
  u32 t;
  asm volatile("mov.u32 %0, %%clock;" : "=r"(t));
  return t;
}
__device__ __forceinline__ i64 nanoseconds() {
  i64 t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

}  // namespace mpk
