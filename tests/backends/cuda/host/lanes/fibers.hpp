// The lanes of a CTA's compute warps as fibers of one thread, which change at barriers and shuffles: a
// skeleton runs as it is, lane by lane. A barrier that some lanes miss is an error, not a hang.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct Index {
  int x;
};
inline Index threadIdx, blockIdx;

namespace fibers {

constexpr int LANES = 256, GROUPS = 1 + LANES / 32;  // group 0: all; then each warp
inline ucontext_t scheduler, context[LANES];
inline bool done[LANES];
inline int arrived[GROUPS], generation[GROUPS];
inline std::uint64_t exchanged[LANES];
inline std::function<void()> job;

// From a fiber, whose stack is not to be taken from under it.
[[noreturn]] inline void fail(const char* why) {
  std::puts(why);
  std::fflush(stdout);
  std::_Exit(1);
}
inline void change() {
  const int me = threadIdx.x;
  swapcontext(&context[me], &scheduler);
  threadIdx.x = me;
}
inline void sync(int group, int count) {
  const int now = generation[group];
  if (++arrived[group] == count) {
    arrived[group] = 0;
    ++generation[group];
    return;
  }
  while (generation[group] == now) change();
}
inline void start() {
  job();
  done[threadIdx.x] = true;
  for (;;) change();
}
inline void run(std::function<void()> what) {
  static std::vector<std::vector<char>> stacks(LANES, std::vector<char>(1 << 17));
  job = what;
  for (int i = 0; i < LANES; ++i) {
    done[i] = false;
    getcontext(&context[i]);
    context[i].uc_stack.ss_sp = stacks[i].data();
    context[i].uc_stack.ss_size = stacks[i].size();
    makecontext(&context[i], start, 0);
  }
  int left = LANES;
  for (int round = 0; left > 0; ++round) {
    if (round == 100000) fail("some lanes wait at a barrier that others miss");
    left = 0;
    for (int i = 0; i < LANES; ++i) {
      if (done[i]) continue;
      threadIdx.x = i;
      swapcontext(&scheduler, &context[i]);
      left += !done[i];
    }
  }
  for (int count : arrived)
    if (count != 0) fail("some lanes end in a barrier");
}

template <class T>
T shuffle(T value, int from) {
  const int base = threadIdx.x / 32 * 32;
  std::memcpy(&exchanged[threadIdx.x], &value, sizeof value);
  sync(1 + base / 32, 32);
  std::memcpy(&value, &exchanged[base + from % 32], sizeof value);
  sync(1 + base / 32, 32);
  return value;
}

}  // namespace fibers

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return fibers::shuffle(value, threadIdx.x % 32 ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return fibers::shuffle(value, from);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  for (int bit = 16; bit > 0; bit /= 2) {
    const unsigned other = __shfl_xor_sync(mask, value, bit);
    value = other > value ? other : value;
  }
  return value;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) { return ~__reduce_max_sync(mask, ~value); }
inline bool __all_sync(unsigned, bool value) {
  const int warp = threadIdx.x / 32;
  fibers::exchanged[threadIdx.x] = value;
  fibers::sync(1 + warp, 32);
  for (int lane = 0; lane < 32; ++lane) value = value && fibers::exchanged[32 * warp + lane];
  fibers::sync(1 + warp, 32);
  return value;
}
inline bool __any_sync(unsigned mask, bool value) { return !__all_sync(mask, !value); }
inline void __syncwarp() { fibers::sync(1 + threadIdx.x / 32, 32); }
