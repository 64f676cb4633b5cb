// The queue of looked-up tasks between the roles of one worker.
//
// The loader looks tasks up a batch ahead (table -> family -> buffer pointers: three dependent
// reads) and fills entries; the dispatcher waits for each task's event and marks it ready; compute
// warps and publisher read an entry and give it back.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

#ifndef MPK_QUEUE
#define MPK_QUEUE 16
#endif
constexpr int QUEUE = MPK_QUEUE;
constexpr int BATCH = QUEUE / 2;

// For a task that is looked up now, and run well within the time it takes to notice.
__device__ __forceinline__ u32 deadline_of(const LaunchArgs& args) {
  return args.watchdog <= 0 ? 0 : u32((nanoseconds() + args.watchdog) >> 20) | 1;
}

struct Queue {
  Work work[QUEUE];
  Barrier filled[QUEUE];  // by the loader
  Barrier ready[QUEUE];   // by the dispatcher: the task may start, or says stop
  Barrier done[QUEUE];    // by compute: a cooperative task's results are written
  Barrier empty[QUEUE];   // by every compute warp and the publisher

  // Thread `first` of `threads`, each its part.
  __device__ __forceinline__ void init(int first, int threads) {
    for (int i = first; i < QUEUE; i += threads) {
      filled[i].init(1);
      ready[i].init(1);
      done[i].init(ARRIVING);
      empty[i].init((COMPUTE_WARPS + 1) * ARRIVING);
    }
  }
};

// The task that the loader is at, and those behind it that are looked up.
struct Upcoming {
  const Work* work = nullptr;  // of the queue
  int entry = 0, known = 0;

  // The n-th of the present one's family, itself the 0th; nullptr where that is not known.
  __device__ __forceinline__ const Work* at(int n) const {
    if (n > known) return nullptr;
    const Work* const found = work + (entry + n) % QUEUE;
    return found->family == work[entry].family ? found : nullptr;
  }
};

struct QueueCursor {
  int entry = 0;
  u32 parity = 0;

  __device__ __forceinline__ void advance() {
    if (++entry == QUEUE) {
      entry = 0;
      parity ^= 1;
    }
  }
};

// The loader's lookup: lane l holds task l of a batch, so that a batch costs three round trips, and
// each round trip of the next batch is started while the present one is being loaded.
struct Lookup {
  const LaunchArgs& args;
  int tokens;        // per step
  int first, count;  // this worker's part of the table
  int place;         // of this lane's task in the worker's list
  int step = 0;
  int4 task[2];    // as in the table
  int4 family[4];
  void* operand[OPERANDS];

  // With the first batch looked up.
  __device__ __forceinline__ Lookup(const LaunchArgs& args, int tokens, int lane)
      : args(args), tokens(tokens) {
    first = args.workers[blockIdx.x];
    count = args.workers[blockIdx.x + 1] - first;
    place = lane - BATCH;
    skip_to_next();
    read_task();
    read_family();
    read_operands();
  }
  __device__ __forceinline__ bool is_task() const { return count > 0 && step < args.steps; }
  __device__ __forceinline__ void skip_to_next() {
    place += BATCH;
    while (count > 0 && place >= count) {
      place -= count;
      ++step;
    }
  }
  __device__ __forceinline__ void read_task() {
    if (!is_task()) return;
    const int4* source = reinterpret_cast<const int4*>(args.tasks + first + place);
    task[0] = source[0];
    task[1] = source[1];
  }
  __device__ __forceinline__ void read_family() {
    if (!is_task()) return;
    const int4* source = reinterpret_cast<const int4*>(args.families + task[0].x);
#pragma unroll
    for (int i = 0; i < 4; ++i) family[i] = source[i];
  }
  __device__ __forceinline__ void read_operands() {
    if (!is_task()) return;
#pragma unroll
    for (int i = 0; i < OPERANDS / 4; ++i) {
      operand[4 * i] = buffer(family[1 + i].x);
      operand[4 * i + 1] = buffer(family[1 + i].y);
      operand[4 * i + 2] = buffer(family[1 + i].z);
      operand[4 * i + 3] = buffer(family[1 + i].w);
    }
  }
  __device__ __forceinline__ void* buffer(int id) const { return id < 0 ? nullptr : args.buffers[id]; }
  template <bool DYNAMIC>
  __device__ __forceinline__ void write(Work& work) const {
    if (!is_task()) {
      work.body = -1;
      work.step = args.steps;
      work.wait_event = -1;
      work.family = -1;
      work.first = 1;
      work.stop = 1;
      return;
    }
#pragma unroll
    for (int i = 0; i < OPERANDS; ++i) work.operand[i] = operand[i];
    work.position = args.position + i64(step) * tokens;
    work.body = family[0].x;
    work.family = task[0].x;
    work.index = task[0].y;
    work.task = first + place;
    work.step = step;
    work.wait_event = task[0].z;
    work.wait_lag = task[1].x;
    work.wait_target = u32(task[0].w) * (args.epoch + u32(step) + 1 - u32(task[1].x));
    work.signal_event = task[1].y;
    work.signal_amount = task[1].z;
    work.stop = 0;
    work.first = place == 0;
    work.tag_for(args, args.epoch + u32(step));
    work.deadline = deadline_of(args);
    if constexpr (DYNAMIC) work.release_arrivals = task[1].w;
  }
};

}  // namespace mpk
