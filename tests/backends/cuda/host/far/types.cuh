// Stand-ins for types.cuh, sync.cuh and tagged.cuh: a thread of the host is a thread of a rank's GPU,
// so that what peers.cuh and nvshmem.cuh do to others' memory, as they are, runs without one.
#pragma once
#include <sched.h>

#include <cstring>

#define __device__
#define __forceinline__ inline
// Which rank a thread is of, it says itself.
#define __constant__ thread_local

inline int __ffs(int v) { return __builtin_ffs(v); }

namespace mpk {

using i64 = long long;
using u32 = unsigned int;
using u64 = unsigned long long;
struct bf16 { unsigned short bits; };

template <class T>
T convert(T v) { return v; }

}  // namespace mpk
