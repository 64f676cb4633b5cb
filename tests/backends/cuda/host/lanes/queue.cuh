// What ring.cuh knows of queue.cuh.
#pragma once
#include "abi.cuh"

namespace mpk {

struct Upcoming {};

}  // namespace mpk
