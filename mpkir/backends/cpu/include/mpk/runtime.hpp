// The persistent loop: every worker is a thread that runs its list of tasks once a step, and hands
// over to others through counters that are raised after the data is written and read before it is.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <cstdlib>

#include "mpk/abi.hpp"

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

inline long long now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// Program: static workers, scratch_bytes, run(context, body, operands, index),
// prefetch(body, operands, index).
template <class Program>
class Worker {
 public:
  Worker(const LaunchArgs& args, int number, int spins, char* scratch)
      : args_(args), number_(number), spins_(spins) {
    context_.scratch = scratch;
    context_.control = args.control;
  }

  void run() {
    for (int step = 0; step < args_.steps; ++step) {
      if (leaving(step)) return;
      context_.step = step;
      context_.position = args_.position + (long long)step * Program::tokens_per_step;
      int family = -1;
      for (int t = args_.workers[number_]; t < args_.workers[number_ + 1]; ++t) {
        const Task& task = args_.tasks[t];
        const Family& f = args_.families[task.family];
        const Operands operands{args_.buffers, f.operand};
        if (task.wait_event >= 0 && !wait(t, task, f, operands)) return;
        context_.first_of_run = task.family != family;
        family = task.family;
        Program::run(context_, f.body, operands, task.index);
        if (task.signal_event >= 0)
          __atomic_fetch_add(args_.counters + task.signal_event, unsigned(task.signal_amount),
                             __ATOMIC_RELEASE);
      }
    }
  }

 private:
  // Whether the launch ends before this step: a stop token, or another worker's fault.
  bool leaving(int step) const {
    return __atomic_load_n(&args_.control->stop_at, __ATOMIC_RELAXED) <= step ||
           __atomic_load_n(&args_.control->fault, __ATOMIC_RELAXED) != 0;
  }

  bool wait(int number, const Task& task, const Family& f, const Operands& operands) const {
    const unsigned* counter = args_.counters + task.wait_event;
    const unsigned epoch = args_.epoch + unsigned(context_.step);
    const unsigned wanted = unsigned(task.wait_arrivals) * (epoch + 1u - unsigned(task.wait_lag));
    const auto here = [&] {
      return int(__atomic_load_n(counter, __ATOMIC_ACQUIRE) - wanted) >= 0;
    };
    if (here()) return !leaving(context_.step);
    Program::prefetch(f.body, operands, task.index);
    long long since = 0;
    for (unsigned polls = 1; !here(); ++polls) {
      pause();
      if (polls % 64) continue;
      if (leaving(context_.step)) return false;
      if (polls >= unsigned(spins_)) sched_yield();
      if (args_.watchdog) {
        const long long time = now();
        if (!since) since = time;
        if (time - since > args_.watchdog) return fault(number, task, wanted);
      }
    }
    return !leaving(context_.step);
  }

  // The first worker to give up says where it stood; always false.
  bool fault(int number, const Task& task, unsigned wanted) const {
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    Control& control = *args_.control;
    pthread_mutex_lock(&one);
    if (control.fault == 0) {
      control.fault_worker = number_;
      control.fault_task = number;
      control.fault_event = task.wait_event;
      control.fault_seen = __atomic_load_n(args_.counters + task.wait_event, __ATOMIC_RELAXED);
      control.fault_wanted = wanted;
      __atomic_store_n(&control.fault, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&one);
    return false;
  }

  const LaunchArgs& args_;
  const int number_, spins_;
  Context context_{};
};

// Starts the workers (number 0 is the caller) and waits for them. 0, or the fault, or -1 where the
// system gives no thread or memory.
template <class Program>
int launch(const LaunchArgs& args) {
  constexpr int workers = Program::workers;
  constexpr long bytes = (Program::scratch_bytes + 4095) / 4096 * 4096 + 4096;
  // Polling is worth its time only while every worker has a core of its own.
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof cores, &cores) == 0;
  const int spins = !known || CPU_COUNT(&cores) >= workers ? 1 << 11 : 64;
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
