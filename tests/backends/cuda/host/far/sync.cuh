#pragma once
#include "types.cuh"

namespace mpk {

inline u32 load_acquire(const u32* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline u32 load_acquire_system(const u32* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void add_release(u32* p, u32 v) { __atomic_fetch_add(p, v, __ATOMIC_RELEASE); }
inline void add_system(u32* p, u32 v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline void fence_system() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }
inline u64 add_acquire_release(u64* p, u64 v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }

}  // namespace mpk
