// The launch interface between the host and a compiled program; the CUDA kernel takes the same structs.
#pragma once

namespace mpk {

struct Task {
  int family, index, wait_event, wait_arrivals, wait_lag, signal_event, signal_amount;
  int release_arrivals;  // of the event it signals, if that releases dynamic tasks; else 0
};

struct Family {
  int body, grid_size, stream_rows, stream_weights;
  int operand[12];
};

// Where a worker stood when a launch failed, for mpkir/runtime/hang.py; all zero if it waited for
// nothing.
struct Stand {
  static constexpr int WAITS = 1, LEFT = 2;
  unsigned long long polls;     // ~(step << 32 | task) of the first task that gave up what it polled; 0 = none
  unsigned long long finished;  // on a CPU: tasks run so far in this launch
  int kind;           // 0; WAITS: it waited for an event; LEFT: it left with its event fired
  int step, task;     // before this task; -1: at the end of its list
  int event;
  unsigned seen, wanted;
  int reserved[6];
};

struct Control {
  int stop_at;  // first step not to run; the host sets it to `steps` before a launch
  int fault;    // 0; 1: the watchdog ended the launch, and the fields below say where; 2: the host did
  int fault_worker, fault_task, fault_event;
  unsigned fault_seen, fault_wanted;
  int events;     // how many counters there are
  Stand* stands;  // of each worker
};

// What programs with dynamic tasks need besides; all zero for others. docs/scheduling.md.
struct Dynamic {
  const int* released;         // event k releases the tasks released[k] .. released[k + 1] - 1
  unsigned long long* queues;  // of worker k: from queues[stride * k] on
  int stride;
  int first, count;            // the dynamic tasks of the table
  int last_event;              // after which all of a step are done
  int last_arrivals;           // of that event, in a step
};

// A program of several ranks: who this one is, and where the others' memory is. Exchange buffers and
// counters lie at the same places of every rank's heap: what is at p in the own one is at
// p + delta[r] in that of rank r; delta[rank] = 0. Events from first_peer_event on are signalled at
// every rank.
struct Peers {
  static constexpr int MAX_RANKS = 16;
  int rank, ranks;
  int first_peer_event;
  int reserved;
  long long delta[MAX_RANKS];
};

struct LaunchArgs {
  void* const* buffers;
  const Task* tasks;
  const int* workers;
  const Family* families;
  unsigned* counters;
  Control* control;
  long long position;  // of the first token of the first step
  int steps;
  unsigned epoch;      // steps completed since the counters were zero
  long long watchdog;  // nanoseconds that one wait may take; 0 = any time
  Dynamic dynamic;
};

}  // namespace mpk
