// When each task waited, started, had its data and was done, and when each stage of the weight
// stream was asked for, issued and landed: only in a build with MPK_TRACE, else all of it is empty.
//
// Times are of globaltimer, which all SMs share: nanoseconds modulo 2^32, in ticks of 32 on an H100.
// Its low half is one instruction of fixed latency, like the cycles of the SM's own clock; and those of
// several SMs are not to be compared: each part of the GPU has a frequency of its own, which follows
// its voltage, and they come apart by microseconds within a step.
//
// The memory is the host's (mpkir/runtime/recording.py), which chooses the steps: those from `first`
// on, `count` of them; with fewer places than steps, later ones overwrite earlier ones.
//
// One lane of a worker says each mark of a task, in the role that knows:
//   asked       dispatcher: the task's turn to wait for its event has come
//   ready       dispatcher: it may start
//   ready_data  compute: everything that it reads from other tasks has come (its polls are over);
//               where each warp polls for itself, the warp's that is through last; of a product in
//               several passes, what the first one reads
//   computed    publisher: all warps have finished their sums; of a task that is not published, nobody
//   done        who stores its results, after the last store and signal
// A mark is a word of the task's entry in the queue, in shared memory. The loader takes the five of
// them to memory when it needs the entry for another task, a batch at once: nobody who is waited for
// stores anything far away, and there is little code beside each mark.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

enum class Mark { asked = 0, ready = 1, ready_data = 2, computed = 3, done = 4 };
constexpr int MARKS = 5;

// A task of a step; 0 where nothing was marked.
struct alignas(32) TracedTask {
  u32 at[MARKS];
  u32 reserved[3];
};

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
  TracedTask* tasks;    // [steps that are held][tasks]
  TracedStage* stages;  // [workers][stages that are held], used in turn
  u32* counts;          // [workers] stages noted
  int task_count;
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
static_assert(sizeof(Work::marks) == sizeof(TracedTask::at), "a word for each mark");

__device__ __forceinline__ u32 trace_clock() { return u32(nanoseconds()); }

// One lane. `at`: by the clock.
__device__ __forceinline__ void mark(const Work& work, Mark which, u32 at) {
  work.marks[int(which)] = at;
}
__device__ __forceinline__ void mark(const Work& work, Mark which) { mark(work, which, trace_clock()); }

__device__ __forceinline__ bool is_traced(int step) {
  return u32(step - mpk_trace.first) < mpk_trace.count;
}

// A place for tasks that holds none yet.
__device__ __forceinline__ void forget_marks(Work& work) {
  work.body = -1;
  for (u32& at : work.marks) at = 0;
}
// Of a task that all roles are done with: its marks go to memory. One lane.
__device__ __forceinline__ void keep_marks(const Work& work) {
  if (work.body < 0) return;
  TracedTask kept = {};
#pragma unroll
  for (int i = 0; i < MARKS; ++i) kept.at[i] = work.marks[i], work.marks[i] = 0;
  if (!is_traced(work.step)) return;
  const i64 place = u32(work.step - mpk_trace.first) & mpk_trace.step_mask;
  mpk_trace.tasks[place * mpk_trace.task_count + work.task] = kept;
}

// What is left in a queue at the end, by a lane for each entry: of steps that would go to one place the last.
template <int N>
__device__ __forceinline__ void keep_last_marks(const Work (&queue)[N], int entry) {
  const Work& work = queue[entry];
  for (const Work& other : queue)
    if (other.body >= 0 && other.task == work.task && other.step > work.step &&
        (u32(other.step - work.step) & mpk_trace.step_mask) == 0)
      return;
  keep_marks(work);
}

// The loader's notes; all of its lanes call every method together, each in the order of stages. Between
// a landing and the copy that it lets start there is none: that is what a stream of weights waits for.
// Stores to memory are started by one lane, and the loader has no fence that would wait for them.
struct StageMarks {
  TracedStage* held;
  bool notes;
  int step = 0, task = 0;
  u32 noted = 0, noted_landed = 0;
  u32 asked_at = 0, free_at = 0;

  __device__ __forceinline__ explicit StageMarks(int lane)
      : held(mpk_trace.stages + i64(blockIdx.x) * (mpk_trace.stage_mask + 1)),
        notes(lane == 0 && mpk_trace.count != 0) {}

  // The stages from here on are this task's.
  __device__ __forceinline__ void begin(const Work& work) { step = work.step, task = work.task; }
  __device__ __forceinline__ void asked() { asked_at = trace_clock(); }
  __device__ __forceinline__ void has_slot() { free_at = trace_clock(); }
  __device__ __forceinline__ void issued(int bytes) {
    const u32 now = trace_clock();
    if (notes) held[noted & mpk_trace.stage_mask] = {step, task, u32(bytes), asked_at, free_at, now, 0, 0};
    ++noted;
  }
  __device__ __forceinline__ void landed() {
    if (notes) held[noted_landed & mpk_trace.stage_mask].landed = trace_clock();
    ++noted_landed;
  }
  // Behind the last landing.
  __device__ __forceinline__ void over() const {
    if (notes) mpk_trace.counts[blockIdx.x] = noted_landed;
  }
};
#else
constexpr bool TRACED = false;

__device__ __forceinline__ u32 trace_clock() { return 0; }
__device__ __forceinline__ void mark(const Work&, Mark, u32) {}
__device__ __forceinline__ void mark(const Work&, Mark) {}
__device__ __forceinline__ void forget_marks(Work&) {}
__device__ __forceinline__ void keep_marks(const Work&) {}
template <int N>
__device__ __forceinline__ void keep_last_marks(const Work (&)[N], int) {}

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
