// When each task waited, started and was done, for the timeline of a step; only in a build with
// MPK_TRACE, the number of tasks in the table. Later steps overwrite earlier ones.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

#ifdef MPK_TRACE
extern "C" __device__ long long mpk_trace[MPK_TRACE][4] = {};
#endif

namespace mpk {

enum class Mark { asked = 0, ready = 1, done = 2 };  // asked: its turn to wait for its event has come

__device__ __forceinline__ void mark(const Work& work, Mark which) {
#ifdef MPK_TRACE
  mpk_trace[work.task][int(which)] = nanoseconds();
#endif
}

}  // namespace mpk
