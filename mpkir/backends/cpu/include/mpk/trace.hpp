// When each task waited, started and was done; only in a build with MPK_TRACE, else empty. The
// memory is the host's (mpkir/runtime/recording.py), laid out as include/mpk/trace.cuh says; there is
// no stream of weights here, so its part stays empty.
#pragma once

#include <time.h>

namespace mpk {

enum class Mark { asked = 0, ready = 1, ready_data = 2, computed = 3, done = 4 };
constexpr int MARKS = 5;

struct TracedTask {
  unsigned at[MARKS];
  unsigned reserved[3];
};

struct Tracing {
  TracedTask* tasks;  // [steps that are held][tasks]
  void* stages;
  unsigned* counts;
  int task_count;
  int first;
  unsigned count;
  unsigned step_mask, stage_mask;
};

}  // namespace mpk

#ifdef MPK_TRACE
extern "C" mpk::Tracing mpk_trace;
mpk::Tracing mpk_trace = {};
#endif

namespace mpk {

inline long long now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

inline void mark(int task, int step, Mark which) {
#ifdef MPK_TRACE
  const unsigned from_first = unsigned(step - mpk_trace.first);
  if (from_first >= mpk_trace.count) return;
  const long row = long(from_first & mpk_trace.step_mask) * mpk_trace.task_count + task;
  mpk_trace.tasks[row].at[int(which)] = unsigned(now());
#else
  (void)task, (void)step, (void)which;
#endif
}

}  // namespace mpk
