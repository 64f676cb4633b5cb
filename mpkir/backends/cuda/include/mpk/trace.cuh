// When each task waited, started, had its data and was done, and when each stage of the weight
// stream was asked for, issued and landed: only in a build with MPK_TRACE, else all of it is empty.
//
// The clock is the low half of globaltimer, which all SMs share: nanoseconds modulo 2^32, in ticks
// of 32 on an H100. The memory is the host's (mpkir/runtime/recording.py), which chooses the steps:
// those from `first` on, `count` of them; with fewer places than steps, later ones overwrite
// earlier ones.
//
// One lane of a worker says each mark of a task, in the role that knows:
//   asked       dispatcher: the task's turn to wait for its event has come
//   ready       dispatcher: it may start
//   ready_data  compute: everything that it reads from other tasks has come (its polls are over);
//               where each warp polls for itself, the warp's that is through last
//   computed    publisher: it has the sums of all warps; of a task that is not published, nobody
//   done        who stores its results, after the last store and signal
// To look at the clock takes little, to store what it says more: where somebody waits for what comes
// next, the look is taken on the spot and stored later.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

enum class Mark { asked = 0, ready = 1, ready_data = 2, computed = 3, done = 4 };
constexpr int MARKS = 5;

// A stage of the weight stream; times as above.
struct alignas(32) TracedStage {
  int step, task;
  u32 bytes;
  u32 asked;   // the loader turned to it
  u32 free;    // it had a slot of the ring
  u32 issued;  // it was among the few that may be in flight: its copy was started
  u32 landed;  // seen by the loader
  u32 reserved;
};

struct Tracing {
  u32* marks;           // [steps that are held][tasks][MARKS]
  TracedStage* stages;  // [workers][stages that are held], used in turn
  u32* counts;          // [workers] stages noted
  int tasks;
  int first;
  u32 count;
  u32 step_mask, stage_mask;  // powers of two less one: how many are held
};

}  // namespace mpk

#ifdef MPK_TRACE
#ifdef __CUDACC__
extern "C" __constant__ mpk::Tracing mpk_trace = {};
#else
extern "C" mpk::Tracing mpk_trace;
mpk::Tracing mpk_trace = {};
#endif
#endif

namespace mpk {

#ifdef MPK_TRACE
constexpr bool TRACED = true;

__device__ __forceinline__ u32 trace_clock() {
#ifdef __CUDACC__
  u32 t;
  asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(t));
  return t;
#else
  return u32(nanoseconds());
#endif
}

// One lane. `at`: by the clock, not long ago.
__device__ __forceinline__ void mark(const Work& work, Mark which, u32 at) {
  const u32 step = u32(work.step - mpk_trace.first);
  if (step >= mpk_trace.count) return;
  const i64 row = i64(step & mpk_trace.step_mask) * mpk_trace.tasks + work.task;
  mpk_trace.marks[row * MARKS + int(which)] = at;
}
__device__ __forceinline__ void mark(const Work& work, Mark which) { mark(work, which, trace_clock()); }

// The loader's notes; all of its lanes call every method together, each in the order of stages. Between
// a landing and the copy that it lets start there is none: that is what a stream of weights waits for.
// A lane keeps what is known of each 32nd stage and stores it when the stage has landed.
struct StageMarks {
  int lane, step = 0, task = 0;
  u32 noted = 0, noted_landed = 0;
  u32 asked_at = 0, free_at = 0;
  TracedStage kept = {};

  __device__ __forceinline__ explicit StageMarks(int lane) : lane(lane) {}

  // The stages from here on are this task's.
  __device__ __forceinline__ void begin(const Work& work) { step = work.step, task = work.task; }
  __device__ __forceinline__ void asked() { asked_at = trace_clock(); }
  __device__ __forceinline__ void has_slot() { free_at = trace_clock(); }
  // At most as many stages in flight as there are lanes.
  __device__ __forceinline__ void issued(int bytes) {
    const u32 now = trace_clock();
    if (noted++ % WARP == u32(lane)) kept = {step, task, u32(bytes), asked_at, free_at, now, 0, 0};
  }
  __device__ __forceinline__ void landed() {
    const u32 number = noted_landed++;
    if (number % WARP != u32(lane) || u32(kept.step - mpk_trace.first) >= mpk_trace.count) return;
    kept.landed = trace_clock();
    TracedStage* held = mpk_trace.stages + i64(blockIdx.x) * (mpk_trace.stage_mask + 1);
    held[number & mpk_trace.stage_mask] = kept;
  }
  // Behind the last landing.
  __device__ __forceinline__ void over() const {
    if (lane == 0 && mpk_trace.count != 0) mpk_trace.counts[blockIdx.x] = noted_landed;
  }
};
#else
constexpr bool TRACED = false;

__device__ __forceinline__ u32 trace_clock() { return 0; }
__device__ __forceinline__ void mark(const Work&, Mark, u32) {}
__device__ __forceinline__ void mark(const Work&, Mark) {}

struct StageMarks {
  __device__ __forceinline__ explicit StageMarks(int) {}
  __device__ __forceinline__ void begin(const Work&) {}
  __device__ __forceinline__ void asked() {}
  __device__ __forceinline__ void has_slot() {}
  __device__ __forceinline__ void issued(int) {}
  __device__ __forceinline__ void landed() {}
  __device__ __forceinline__ void over() const {}
};
#endif

}  // namespace mpk
