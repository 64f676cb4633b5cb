#pragma once
#include "types.cuh"

namespace mpk {

constexpr int WARP = 32, COMPUTE_WARPS = 8, COMPUTE_THREADS = 256;
inline void compute_sync() { fibers::sync(0, COMPUTE_THREADS); }

inline void finish_writes() {}

}  // namespace mpk
