// The persistent loop: every worker is a thread that runs its list of tasks once a step, and hands
// over to others through counters that are raised after the data is written and read before it is.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <cstdlib>

#include "mpk/abi.hpp"
#include "mpk/peers.hpp"
#include "mpk/queues.hpp"
#include "mpk/trace.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace mpk {

// What a body knows of the run around it.
struct Context {
  long long position;  // index in the sequence of the step's first token
  int step;            // within the launch
  bool first_of_run;   // the task before on this worker belonged to another family or step
  char* scratch;       // the worker's own, aligned to 64 bytes; kept while a run of tasks lasts
  Control* control;

  template <class T>
  T* at(long offset) const {
    return reinterpret_cast<T*>(scratch + offset);
  }

  // No step after this one is to run. The caller's signal publishes it.
  void request_stop() const {
    __atomic_store_n(&control->stop_at, step + 1, __ATOMIC_RELAXED);
  }
};

// The buffers of one family, by operand number.
struct Operands {
  void* const* buffers;
  const int* ids;
  void* operator[](int k) const { return buffers[ids[k]]; }
};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Program: static workers, dynamic, ranks, scratch_bytes, run(context, body, operands, index),
// prefetch(body, operands, index); peers() if there are several ranks.
template <class Program>
class Worker {
 public:
  Worker(const LaunchArgs& args, int number, int spins, char* scratch)
      : args_(args), number_(number), spins_(spins), queues_{args.dynamic, Program::workers} {
    context_.scratch = scratch;
    context_.control = args.control;
  }

  void run() {
    const int begin = args_.workers[number_], end = args_.workers[number_ + 1];
    for (int step = 0; step < args_.steps; ++step) {
      if (leaving(step)) return begin < end ? stands(begin, step) : void();
      for (int t = begin; t < end; ++t) {
        mark(t, step, Mark::asked);
        if (args_.tasks[t].wait_event >= 0 && !wait(t, step)) return stands(t, step);
        execute(t, step);
      }
      if constexpr (Program::dynamic) {
        if (!wait_for_last(step)) return stands(-1, step);
      }
    }
  }

 private:
  // Whether the launch ends before this step: a stop token, or another worker's fault.
  bool leaving(int step) const {
    return __atomic_load_n(&args_.control->stop_at, __ATOMIC_RELAXED) <= step ||
           __atomic_load_n(&args_.control->fault, __ATOMIC_RELAXED) != 0;
  }

  Operands operands(const Task& task) const {
    return {args_.buffers, args_.families[task.family].operand};
  }

  void execute(int number, int step) {
    const Task& task = args_.tasks[number];
    mark(number, step, Mark::ready);
    context_.first_of_run = task.family != last_family_ || step != context_.step;
    context_.step = step;
    context_.position = args_.position + (long long)step * Program::tokens_per_step;
    last_family_ = task.family;
    Program::run(context_, args_.families[task.family].body, operands(task), task.index);
    mark(number, step, Mark::computed);
    if (task.signal_event >= 0) signal(task, args_.epoch + unsigned(step));
    mark(number, step, Mark::done);
    __atomic_store_n(&args_.control->stands[number_].finished, ++finished_, __ATOMIC_RELAXED);
  }

  void signal(const Task& task, unsigned epoch) const {
    unsigned* counter = args_.counters + task.signal_event;
    const unsigned amount = unsigned(task.signal_amount);
    if constexpr (Program::ranks > 1) {
      const Peers& peers = Program::peers();
      if (task.signal_event >= peers.first_peer_event) {
        for (int r = 0; r < peers.ranks; ++r)
          __atomic_fetch_add(at_rank(counter, peers, r), amount, __ATOMIC_RELEASE);
        return;
      }
    }
    if (!Program::dynamic || task.release_arrivals == 0) {
      __atomic_fetch_add(counter, amount, __ATOMIC_RELEASE);
      return;
    }
    // Acquire: what the others did before their signals is before the tasks that this one releases.
    const unsigned count = __atomic_add_fetch(counter, amount, __ATOMIC_ACQ_REL);
    if (count == unsigned(task.release_arrivals) * (epoch + 1u))
      queues_.release(task.signal_event, epoch);
  }

  // Runs one task that waits in a queue: in the worker's own, or, so that none has to wait for a
  // worker with a long task at hand, in another's. False if there was none.
  bool serve() {
    Queues::Taken taken = queues_.take(number_);
    if (taken.task < 0 && Program::workers > 1) {
      if (++other_ >= Program::workers) other_ = 0;
      if (other_ != number_) taken = queues_.take(other_);
    }
    if (taken.task < 0) return false;
    const int step = int(taken.epoch - args_.epoch);
    mark(taken.task, step, Mark::asked);
    execute(taken.task, step);
    return true;
  }

  bool wait(int number, int step) {
    const Task& task = args_.tasks[number];
    const unsigned epoch = args_.epoch + unsigned(step);
    const unsigned wanted = unsigned(task.wait_arrivals) * (epoch + 1u - unsigned(task.wait_lag));
    if (fired(task.wait_event, wanted)) return !leaving(step);
    Program::prefetch(args_.families[task.family].body, operands(task), task.index);
    return poll(number, task.wait_event, wanted, step) && !leaving(step);
  }

  // At the end of the list: until all dynamic tasks of the step are done.
  bool wait_for_last(int step) {
    const Dynamic& d = args_.dynamic;
    const unsigned wanted = unsigned(d.last_arrivals) * (args_.epoch + unsigned(step) + 1u);
    return fired(d.last_event, wanted) || poll(-1, d.last_event, wanted, step);
  }

  bool fired(int event, unsigned wanted) const {
    return int(__atomic_load_n(args_.counters + event, __ATOMIC_ACQUIRE) - wanted) >= 0;
  }

  // Until an event has fired, with what the queues have to do meanwhile; false: the worker leaves.
  bool poll(int number, int event, unsigned wanted, int step) {
    Patience patience;
    for (unsigned polls = 1; !fired(event, wanted); ++polls) {
      if constexpr (Program::dynamic) {
        if (serve()) {
          patience = {};
          continue;
        }
      }
      pause();
      if (polls % 64) continue;
      if (leaving(step)) return false;
      if (polls >= unsigned(spins_)) sched_yield();
      if (args_.watchdog && patience.over(*this)) {
        fault(number, event, wanted);
        return false;
      }
    }
    return true;
  }

  // How long nobody has finished a task: somebody may be at a long one.
  struct Patience {
    long long since = 0, looked = 0;
    unsigned long long finished = 0;

    bool over(const Worker& worker) {
      const long long time = now(), limit = worker.args_.watchdog;
      if (since != 0 && time - looked < limit / 4) return false;
      looked = time;
      const unsigned long long sum = worker.finished_by_all();
      if (since == 0 || sum != finished) since = time, finished = sum;
      return time - since > limit;
    }
  };

  unsigned long long finished_by_all() const {
    unsigned long long sum = 0;
    for (int k = 0; k < Program::workers; ++k)
      sum += __atomic_load_n(&args_.control->stands[k].finished, __ATOMIC_RELAXED);
    return sum;
  }

  // Notes before which task the worker stands (-1: at the end of its list), if the launch failed.
  void stands(int number, int step) const {
    if (__atomic_load_n(&args_.control->fault, __ATOMIC_ACQUIRE) == 0) return;
    Stand& stand = args_.control->stands[number_];
    const unsigned epoch = args_.epoch + unsigned(step);
    if (number >= 0) {
      const Task& task = args_.tasks[number];
      stand.event = task.wait_event;
      stand.wanted = unsigned(task.wait_arrivals) * (epoch + 1u - unsigned(task.wait_lag));
    } else {
      stand.event = args_.dynamic.last_event;
      stand.wanted = unsigned(args_.dynamic.last_arrivals) * (epoch + 1u);
    }
    stand.step = step;
    stand.task = number;
    stand.kind = Stand::LEFT;
    if (stand.event < 0) return;
    stand.seen = __atomic_load_n(args_.counters + stand.event, __ATOMIC_RELAXED);
    if (int(stand.seen - stand.wanted) < 0) stand.kind = Stand::WAITS;
  }

  // The first worker to give up says where it stood. number: the task that waits, or -1 at the end
  // of the list.
  void fault(int number, int event, unsigned wanted) const {
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    Control& control = *args_.control;
    pthread_mutex_lock(&one);
    if (control.fault == 0) {
      control.fault_worker = number_;
      control.fault_task = number;
      control.fault_event = event;
      control.fault_seen = __atomic_load_n(args_.counters + event, __ATOMIC_RELAXED);
      control.fault_wanted = wanted;
      __atomic_store_n(&control.fault, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&one);
  }

  const LaunchArgs& args_;
  const int number_, spins_;
  const Queues queues_;
  Context context_{};
  int last_family_ = -1;
  unsigned long long finished_ = 0;
  int other_ = 0;  // whose queue was looked into last
};

// Starts the workers (number 0 is the caller) and waits for them. 0, or the fault, or -1 where the
// system gives no thread or memory.
template <class Program>
int launch(const LaunchArgs& args) {
  constexpr int workers = Program::workers;
  constexpr long bytes = (Program::scratch_bytes + 4095) / 4096 * 4096 + 4096;
  // Polling is worth its time only while every worker has a core of its own, on all ranks here.
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof cores, &cores) == 0;
  const int spins = !known || CPU_COUNT(&cores) >= workers * Program::ranks ? 1 << 11 : 64;
  struct Start {
    const LaunchArgs* args;
    int number, spins;
    char* scratch;
    static void* enter(void* self) {
      const Start& s = *static_cast<Start*>(self);
      Worker<Program>(*s.args, s.number, s.spins, s.scratch).run();
      return nullptr;
    }
  };
  char* const scratch = static_cast<char*>(std::aligned_alloc(4096, bytes * workers));
  if (!scratch) return -1;
  Start starts[workers];
  pthread_t threads[workers];
  int started = 1;
  for (int k = 0; k < workers; ++k) starts[k] = {&args, k, spins, scratch + bytes * k};
  for (; started < workers; ++started)
    if (pthread_create(&threads[started], nullptr, Start::enter, &starts[started])) break;
  const bool all = started == workers;
  if (all)
    Start::enter(&starts[0]);
  else
    __atomic_store_n(&args.control->fault, -1, __ATOMIC_RELEASE);
  for (int k = 1; k < started; ++k) pthread_join(threads[k], nullptr);
  std::free(scratch);
  return all ? args.control->fault : -1;
}

}  // namespace mpk
