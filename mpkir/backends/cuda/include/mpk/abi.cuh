// The structures that host and kernel share; mpkir/runtime/table.py describes the same table.
#pragma once
#include "types.cuh"

namespace mpk {

constexpr int OPERANDS = 12;

struct alignas(16) Task {
  int family, index, wait_event, wait_arrivals, wait_lag, signal_event, signal_amount;
  int release_arrivals;  // of the event it signals, if that releases dynamic tasks; else 0
};
struct alignas(16) Family {
  int body, grid_size, stream_rows, stream_weights;
  int operand[OPERANDS];
};
// Where a worker stood when a launch failed, for mpkir/runtime/hang.py; all zero if it waited for
// nothing.
struct Stand {
  static constexpr int WAITS = 1, LEFT = 2;
  u64 polls;     // ~(step << 32 | task) of the first task that gave up what it polled; 0 = none
  u64 finished;  // on a CPU: tasks run so far in this launch
  int kind;           // 0; WAITS: it waited for an event; LEFT: it left with its event fired
  int step, task;     // before this task; -1: at the end of its list
  int event;
  u32 seen, wanted;
  int reserved[6];
};
// What the host looks at when a launch is over, in its own memory; it sets both before.
struct Answer {
  int stop_at;  // as in Control, at first the steps of the launch
  int fault;
};
// Nothing of it changes in a launch that runs to its end, so nobody has to set it up before the next.
struct Control {
  int stop_at;  // the first step not to run, if a body asked for a stop
  int fault;    // 0, or 1 = watchdog
  int fault_worker, fault_task, fault_event;
  u32 fault_seen, fault_wanted;
  int events;     // how many counters there are
  Stand* stands;  // of each worker; null: nobody asks
  volatile Answer* answer;  // null: the host reads the control itself
  // Of each place of the token sequences, in the host's memory, what stands there: tag of the step that
  // said so << 32 | token. Null: nobody asks while a launch runs.
  u64* told;

  __device__ __forceinline__ void tell_stop(int step) const {
    if (answer != nullptr) answer->stop_at = step;
  }
  __device__ __forceinline__ void tell_fault() const {
    if (answer != nullptr) answer->fault = 1;
  }
};
// A dynamic task with everything looked up.
struct alignas(16) Released {
  void* operand[OPERANDS];
  int body, index, family, task, signal_event, signal_amount, release_arrivals, reserved;
};
// What programs with dynamic tasks need besides; all zero for others. docs/scheduling.md.
struct Dynamic {
  const int* released;  // event k releases the tasks released[k] .. released[k + 1] - 1
  u64* queues;          // of worker k: from queues[stride * k] on
  int stride;
  int first, count;     // the dynamic tasks of the table
  int last_event;       // after which all of a step are done
  int last_arrivals;    // of that event, in a step
};
// A program of several ranks: who this one is, and where the others' memory is. Exchange buffers and
// counters lie at the same places of every rank's heap: what is at p in the own one is at
// p + delta[r] in that of rank r; delta[rank] = 0. Events from first_peer_event on are signalled at
// every rank.
constexpr int MAX_RANKS = 16;
struct Peers {
  int rank, ranks;
  int first_peer_event;
  int reserved;
  i64 delta[MAX_RANKS];
};
struct LaunchArgs {
  void* const* buffers;
  const Task* tasks;
  const int* workers;
  const Family* families;
  u32* counters;
  Control* control;
  i64 position;
  int steps;
  u32 epoch;
  i64 watchdog;  // nanoseconds a wait may take; 0 = for ever
  Dynamic dynamic;
  const Released* dynamic_tasks;
};

// One task with everything looked up: what the roles of a worker hand each other.
struct alignas(16) Work {
  void* operand[OPERANDS];
  i64 position;  // of the step's first token
  int body;      // -1: the launch is over
  int index;     // in the family's grid
  int family;
  int task;  // in the table
  int step;  // of the launch
  int wait_event;
  u32 wait_target;
  int wait_lag;
  int signal_event, signal_amount;
  int stop;  // set instead of running the task: the worker leaves
  int first; // the first task of a step on this worker
  int release_arrivals;  // as in the table; only in programs with dynamic tasks
  u32 tag;         // of what this step writes to flagged buffers
  u32 deadline;    // after which a poll gives the launch up, in 2^20 nanoseconds; 0 = none
  Control* control;
#ifdef MPK_TRACE
  mutable u32 marks[5];  // trace.cuh
#endif

  template <class T>
  __device__ __forceinline__ T* at(int k) const {
    return static_cast<T*>(operand[k]);
  }
  // What flagged buffers need to know of a step, counted since they were cleared.
  __device__ __forceinline__ void tag_for(const LaunchArgs& args, u32 epoch) {
    tag = epoch + 1;  // not the 0 of cleared memory
    control = args.control;
  }
};

}  // namespace mpk
