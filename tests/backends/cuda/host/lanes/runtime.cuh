// What bodies know of runtime.cuh and ring.cuh.
#pragma once
#include "trace.cuh"

namespace mpk {

constexpr int SLOT = 16384;

}  // namespace mpk
