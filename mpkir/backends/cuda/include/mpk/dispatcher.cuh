// The role that waits for events, in the order of a worker's list.
//
// One lane. It says of each looked-up task that it may start, or that the worker leaves; in programs
// with dynamic tasks it also serves the queues while it waits.
#pragma once
#include "abi.cuh"
#include "dynamic.cuh"
#include "peers.cuh"
#include "queue.cuh"
#include "sync.cuh"
#include "trace.cuh"

namespace mpk {

template <class P>
struct Shared;

// How long a wait has seen no counter of the program rise.
struct Patience {
  i64 since = 0, looked = 0;
  u32 sum = 0;

  // Whether the watchdog ends the wait; to be asked now and then.
  __device__ __forceinline__ bool over(const LaunchArgs& args) {
    if (args.watchdog <= 0) return false;
    const i64 now = nanoseconds();
    if (since == 0) since = looked = now;
    if (now - looked <= args.watchdog / 8) return false;
    looked = now;
    u32 total = 0;
    for (int k = 0; k < args.control->events; ++k) total += load_acquire(args.counters + k);
    if (total != sum) sum = total, since = now;
    return now - since > args.watchdog;
  }
};

// Does nothing else while it waits.
struct Idle {
  __device__ __forceinline__ void look() {}
  __device__ __forceinline__ bool serve() { return false; }
};

// Waits for events in the order of the list; one lane. Decides when the worker leaves.
struct Dispatcher {
  const LaunchArgs& args;
  int last_event = -1;
  u32 last_target = 0;

  __device__ __forceinline__ bool stopped(int step) const {
    return step >= load_relaxed(&args.control->stop_at) || load_relaxed(&args.control->fault) != 0;
  }
  __device__ void report_fault(int task, int event, u32 seen, u32 wanted) {
    Control* control = args.control;
    if (atomicCAS(&control->fault, 0, 1) != 0) return;
    control->fault_worker = blockIdx.x;
    control->fault_task = task;
    control->fault_event = event;
    control->fault_seen = seen;
    control->fault_wanted = wanted;
    control->tell_fault();
  }
  // Notes where the worker stands as it leaves, if the launch failed. task: -1 at the end of its list.
  __device__ void stands(int step, int task, int event, u32 wanted) const {
    const Control* control = args.control;
    if (load_relaxed(&control->fault) == 0 || control->stands == nullptr) return;
    Stand& stand = control->stands[blockIdx.x];
    stand.step = step;
    stand.task = task;
    stand.event = event;
    stand.wanted = wanted;
    stand.kind = Stand::LEFT;
    if (event < 0) return;
    stand.seen = reported_event(args.counters + event);
    if (int(stand.seen - wanted) < 0) stand.kind = Stand::WAITS;
  }
  __device__ __forceinline__ void stands(const Work& work) const {
    if (work.body >= 0) stands(work.step, work.task, work.wait_event, work.wait_target);
  }
  __device__ __forceinline__ void made_ready(const QueueCursor&) {}
  __device__ __forceinline__ void wait_for_last() {}

  // True: the task may start. False: the worker leaves. Meanwhile it looks for other work beside each
  // poll, and serves it if the event has not come.
  template <class Meanwhile = Idle>
  __device__ __forceinline__ bool wait(const Work& work, Meanwhile meanwhile = {}) {
    if (work.wait_event < 0) return !(work.first && stopped(work.step));
    if (work.wait_event == last_event && work.wait_target == last_target) return true;
    const u32* counter = args.counters + work.wait_event;
    Patience patience;
    for (u32 polls = 1;; ++polls) {
      meanwhile.look();
      const u32 seen = load_event(counter);
      if (int(seen - work.wait_target) >= 0) break;
      if (meanwhile.serve()) {
        patience = {};
        continue;
      }
      if (polls % 64 != 0) continue;
      if (stopped(work.step)) return false;
      if (patience.over(args)) {
        report_fault(work.task, work.wait_event, seen, work.wait_target);
        return false;
      }
    }
    see_event(counter);
    last_event = work.wait_event;
    last_target = work.wait_target;
    // A step's first tasks wait for the end of the step before: only there can a stop be seen that
    // was asked for in time.
    return !((work.wait_lag > 0 || work.first) && stopped(work.step));
  }
};

// The same for programs with dynamic tasks, which it has run while it waits.
template <class P>
struct ServingDispatcher : Dispatcher {
  Shared<P>& s;
  Server server;
  bool any_before = false;  // a task of the list
  QueueCursor before;       // the one that was made ready last

  __device__ ServingDispatcher(Shared<P>& s, const LaunchArgs& args)
      : Dispatcher{args}, s(s), server(args, s.offer, P::tokens) {}

  // Whether the compute warps have nothing to do: only then is a task taken that another worker
  // could run at once.
  __device__ __forceinline__ bool idle() {
    return !any_before || s.queue.done[before.entry].passed_now(before.parity);
  }
  __device__ __forceinline__ void made_ready(const QueueCursor& queue) {
    any_before = true;
    before = queue;
  }

  struct Serving {
    ServingDispatcher& by;
    bool free = false;
    Server::Look found;
    __device__ __forceinline__ void look() {
      free = by.idle();
      if (free) found = by.server.look();
    }
    __device__ __forceinline__ bool serve() { return free && by.server.serve(found); }
  };
  __device__ __forceinline__ bool wait(const Work& work) {
    return Dispatcher::wait(work, Serving{*this});
  }

  // Behind the list: until the dynamic tasks of the launch's last step are done.
  __device__ __forceinline__ void wait_for_last() {
    const Dynamic& dynamic = args.dynamic;
    u32 before = 0;
    Patience patience;
    Serving meanwhile{*this};
    for (u32 polls = 1;; ++polls) {
      meanwhile.look();
      const u32 steps = u32(least(args.steps, load_relaxed(&args.control->stop_at)));
      const u32 wanted = u32(dynamic.last_arrivals) * (args.epoch + steps);
      const u32 seen = load_acquire(args.counters + dynamic.last_event);
      if (int(seen - wanted) >= 0) return;
      if (meanwhile.serve() || seen != before) patience = {};
      before = seen;
      if (polls % 64 != 0) continue;
      if (patience.over(args)) report_fault(-1, dynamic.last_event, seen, wanted);
      if (load_relaxed(&args.control->fault) != 0)
        return stands(int(steps) - 1, -1, dynamic.last_event, wanted);
    }
  }
};

template <class P, class D>
__device__ __forceinline__ void dispatch(Shared<P>& s, D dispatcher) {
  QueueCursor queue;
  for (;;) {
    s.queue.filled[queue.entry].wait(queue.parity);
    Work& work = s.queue.work[queue.entry];
    if (work.body >= 0) mark(work, Mark::asked);
    if (work.body < 0) dispatcher.wait_for_last();
    const bool leave = work.body < 0 || !dispatcher.wait(work);
    if (leave) dispatcher.stands(work);
    if (leave) work.stop = 1;
    if (!leave) mark(work, Mark::ready);
    s.queue.ready[queue.entry].arrive();
    if (leave) return;
    dispatcher.made_ready(queue);
    queue.advance();
  }
}

template <class P>
__device__ __forceinline__ void dispatcher_role(Shared<P>& s, const LaunchArgs& args, int lane) {
  if (lane != 0) return;
  if constexpr (P::dynamic)
    dispatch(s, ServingDispatcher<P>(s, args));
  else
    dispatch(s, Dispatcher{args});
}

}  // namespace mpk
