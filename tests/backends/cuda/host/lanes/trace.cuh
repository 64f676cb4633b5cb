#pragma once
#include "abi.cuh"

namespace mpk {

enum class Mark { asked, ready, ready_data, computed, done };
inline u32 trace_clock() { return 0; }
inline void mark(const Work&, Mark, u32) {}
inline void mark(const Work&, Mark) {}

}  // namespace mpk
