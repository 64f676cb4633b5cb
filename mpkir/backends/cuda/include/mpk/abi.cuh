// The structures that host and kernel share; mpkir/runtime/table.py describes the same table.
#pragma once
#include "types.cuh"

namespace mpk {

constexpr int OPERANDS = 12;

struct alignas(16) Task {
  int family, index, wait_event, wait_arrivals, wait_lag, signal_event, signal_amount, reserved;
};
struct alignas(16) Family {
  int body, grid_size, stream_rows, stream_weights;
  int operand[OPERANDS];
};
struct Control {
  int stop_at;  // the first step not to run
  int fault;    // 0, or 1 = watchdog
  int fault_worker, fault_task, fault_event;
  u32 fault_seen, fault_wanted;
  int reserved;
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

  template <class T>
  __device__ __forceinline__ T* at(int k) const {
    return static_cast<T*>(operand[k]);
  }
};

}  // namespace mpk
