// The persistent kernel: one CTA for each worker, warps with roles, one loop over the worker's list.
//
// Warps 0-7 compute, warp 8 loads weights ahead of every dependency, warp 9 publishes what streaming
// bodies computed and prepares what cooperative ones wait for, warp 10 waits for events. A generated
// program says
//
//   struct program {
//     static constexpr int tokens, shared_bytes, ring_slots, in_flight;
//     static constexpr int ease, pace, long_pace, long_from, ahead;  // ring.cuh
//     static constexpr int registers_from;  // rows of x that registers are moved for; 0: never
//     static constexpr bool dynamic;  // whether there are tasks without a place
//     static constexpr bool stages;  // whether cooperative bodies read through the ring what they can
//     using bodies = mpk::Bodies<mpk::Linear<body_0>, mpk::Attention<body_1>, ...>;
//     template <class Visit> static __device__ void dispatch(int body, Visit& visit);  // the switch
//   };
//   MPK_KERNEL(program)
//
// A body either streams (RingLinear: the three methods load, compute, publish; publisher_sums: whether
// publish reads what compute left in the task's `partial`) or is cooperative:
//   static constexpr int scratch_bytes;
//   static __device__ void run(const Work&, const LaunchArgs&, char* scratch);   // all compute warps
//   static __device__ void tell(const Work&, const LaunchArgs&, int lane);       // may be missing: what
//                    the host is told, by the last compute warp while the first one signals
//   static constexpr bool is_prepared;       // may be missing: whether it can be run as two parts,
//   static __device__ void prepare(const Work&, char* scratch, int lane);        // by the publisher, and
//   static __device__ void run_prepared(const Work&, const LaunchArgs&, char* scratch, Prepared);   // all
//                    compute warps, which call prepared() once, to wait for that
//   struct stages {  // may be missing: what it reads can come through the ring, like weights
//     static constexpr bool possible;
//     static __device__ bool load(Loader&, const Work&);   // what the step before has written, too
//   };
//   static __device__ void run_staged(.., Prepared, Compute&);   // run_prepared then; or nullptr: run
#pragma once
#include "abi.cuh"
#include "bodies.cuh"
#include "dispatcher.cuh"
#include "dynamic.cuh"
#include "queue.cuh"
#include "ring.cuh"
#include "trace.cuh"

namespace mpk {

constexpr int LOADER_WARP = COMPUTE_WARPS;
constexpr int PUBLISHER_WARP = COMPUTE_WARPS + 1;
constexpr int DISPATCHER_WARP = COMPUTE_WARPS + 2;
constexpr int THREADS = 32 * (DISPATCHER_WARP + 1);
constexpr int COMPUTE_REGISTERS = 208, OTHER_REGISTERS = 88;  // where they are moved
// So many threads are launched with 168 registers each: who asked for more in all would wait for ever.
static_assert(2 * COMPUTE_REGISTERS + OTHER_REGISTERS <= 3 * 168, "two groups compute, one does not");

template <bool DYNAMIC>
struct SharedOffer {};
template <>
struct SharedOffer<true> {
  Offer offer;
};

template <class P>
struct Shared : SharedOffer<P::dynamic> {
  using L = Layout<P>;
  Ring<L::SLOTS> ring;
  Queue queue;
  alignas(16) char memory[L::MEMORY];
  Barrier partial_full[2];
  Barrier partial_empty[2];
  Barrier prepared;
  float reduce[2][COMPUTE_WARPS];
  int leave;

  // Of cooperative bodies; a warp's of streaming ones, the same in all of these: a warp may be in a task
  // while another is still in the one before; the sums of a streaming worker's task number `task`.
  __device__ __forceinline__ char* scratch() { return memory + (L::APART ? L::SUMS : 0); }
  __device__ __forceinline__ char* own_scratch(int warp) {
    return memory + warp * (L::OWN / COMPUTE_WARPS / 16 * 16);
  }
  __device__ __forceinline__ float* partial(u32 task) {
    return reinterpret_cast<float*>(memory + L::OWN + task % L::BUFFERS * L::PARTIAL);
  }
};

// ---- roles ----

// A compute warp's place in queue, ring and hand-over buffers; equal in all compute warps.
template <class P>
struct Compute {
  static constexpr int SLOTS = Layout<P>::SLOTS;
  Shared<P>& s;
  const LaunchArgs& args;
  int warp, lane;
  QueueCursor queue;
  RingCursor<SLOTS> ring;
  u32 handed = 0;  // streaming tasks handed to the publisher so far
  u32 toggle = 0;  // which reduce buffer
  u32 prepared = 0;  // tasks that the publisher has prepared
  u32 offers = 0;  // dynamic tasks run so far
  bool offered = false;  // a dynamic task is to be run before the list goes on
  bool leaving = false;

  __device__ __forceinline__ char* own_scratch() const { return s.own_scratch(warp); }
  __device__ __forceinline__ const Work& work() const { return s.queue.work[queue.entry]; }
  __device__ __forceinline__ void wait_filled() { s.queue.filled[queue.entry].wait(queue.parity); }
  // False: the worker leaves, or a dynamic task comes first.
  __device__ __forceinline__ bool wait_ready() {
    if constexpr (P::dynamic) {
      for (;;) {
        // In this order: an offer made for a later task of the list is made after this one is ready.
        const bool made = s.offer.made.passed_now(offers & 1);
        if (s.queue.ready[queue.entry].passed_now(queue.parity)) break;
        if (made) {
          offered = true;
          return false;
        }
      }
    } else {
      s.queue.ready[queue.entry].wait(queue.parity);
    }
    leaving = work().stop != 0;
    return !leaving;
  }
  // Until all that was handed over has been published: later tasks of this worker may read it
  // without an event.
  __device__ __forceinline__ void wait_published() {
    if (handed > 0) s.partial_empty[(handed - 1) & 1].wait(((handed - 1) >> 1) & 1);
  }
  __device__ __forceinline__ void finish_task() {
    if (warp == 0) arrive_warp(s.queue.done[queue.entry], lane);
    arrive_warp(s.queue.empty[queue.entry], lane);
    queue.advance();
  }
  __device__ __forceinline__ void finish_offer() {
    arrive_warp(s.offer.taken, lane);
    ++offers;
    offered = false;
  }
  __device__ __forceinline__ const char* wait_stage() {
    s.ring.full[ring.slot].wait(ring.parity);
    return s.ring.slot[ring.slot];
  }
  __device__ __forceinline__ void release_stage() {
    finish_reads();
    arrive_warp(s.ring.empty[ring.slot], lane);
    ring.advance();
  }
  // The same, several at once: those that come next, the k-th of them.
  __device__ __forceinline__ void wait_stages(int count) {
    RingCursor<SLOTS> at = ring;
#pragma unroll 1
    for (int k = 0; k < count; ++k, at.advance()) s.ring.full[at.slot].wait(at.parity);
  }
  __device__ __forceinline__ const char* stage(int k) const {
    const int slot = ring.slot + k;
    return s.ring.slot[slot < SLOTS ? slot : slot - SLOTS];
  }
  __device__ __forceinline__ void release_stages(int count) {
    finish_reads();
    __syncwarp();
#pragma unroll 1
    for (int k = 0; k < count; ++k, ring.advance())
      if (lane < ARRIVING) s.ring.empty[ring.slot].arrive();
  }
  // The buffer for this task's sums, when nobody reads what is in it any more; then hand_over.
  __device__ __forceinline__ float* partial() {
    if constexpr (Layout<P>::BUFFERS == 1) wait_published();
    else s.partial_empty[handed & 1].wait(((handed >> 1) & 1) ^ 1);
    return s.partial(handed);
  }
  __device__ __forceinline__ void hand_over() {
    arrive_warp(s.partial_full[handed & 1], lane);
    ++handed;
  }
};

// Whether a cooperative body has the loader ask for what it will read.
template <class B, class = void>
inline constexpr bool looks_ahead = false;
template <class B>
inline constexpr bool looks_ahead<B, typename Always<decltype(&B::look_ahead)>::type> = true;

// Whether the publisher prepares a cooperative body's tasks: not those that are offered, which it does
// not see.
template <class P, class B, class = void>
inline constexpr bool is_prepared = false;
template <class P, class B>
inline constexpr bool is_prepared<P, B, typename Always<decltype(&B::is_prepared)>::type> =
    B::is_prepared && !P::dynamic;

// Whether a cooperative body's tasks have stages of the ring: not where tasks are without a place, for they have
// no loader.
template <class P, class B, class = void>
inline constexpr bool takes_stages = false;
template <class P, class B>
inline constexpr bool takes_stages<P, B, typename Always<typename B::stages>::type> =
    P::stages && B::stages::possible && !P::dynamic;

// Whether a cooperative body has something for the host.
template <class B, class = void>
inline constexpr bool tells = false;
template <class B>
inline constexpr bool tells<B, typename Always<decltype(&B::tell)>::type> = true;

template <class P>
struct ComputeVisitor {
  Compute<P>& role;

  template <class B>
  __device__ __forceinline__ void tell(const Work& work) const {
    if constexpr (tells<B>)
      if (role.warp == COMPUTE_WARPS - 1) B::tell(work, role.args, role.lane);
  }

  template <class B>
  __device__ __forceinline__ void visit() {
    if constexpr (B::streams) {
      B::compute(role);
    } else if constexpr (P::dynamic) {
      if (!role.offered) {
        if (!role.wait_ready()) return;
        role.wait_published();
      }
      const Work& work = role.offered ? role.s.offer.work : role.work();
      compute_sync();  // nothing of a product is in the memory any more
      B::run(work, role.args, role.s.scratch());
      compute_sync();
      if (role.warp == 0) {
        signal<true>(role.args, work, role.lane);
        if (role.lane == 0) mark(work, Mark::done);
      }
      tell<B>(work);
      if (role.offered) {
        if (role.warp == 0 && role.lane == 0) keep_marks(work);
        role.finish_offer();
      } else {
        role.finish_task();
      }
    } else {
      if (!role.wait_ready()) return;
      role.wait_published();
      const Work& work = role.work();
      compute_sync();  // nothing of a product is in the memory any more
      [[maybe_unused]] const auto prepared = [&] { role.s.prepared.wait(role.prepared++ & 1); };
      if constexpr (takes_stages<P, B>) {
        if constexpr (is_prepared<P, B>) B::run_staged(work, role.args, role.s.scratch(), prepared, role);
        else B::run_staged(work, role.args, role.s.scratch(), nullptr, role);
      } else if constexpr (is_prepared<P, B>) {
        B::run_prepared(work, role.args, role.s.scratch(), prepared);
      } else {
        B::run(work, role.args, role.s.scratch());
      }
      compute_sync();
      if (role.warp == 0 && role.lane == 0) {
        if (work.signal_event >= 0)
          add_release(role.args, work.signal_event, u32(work.signal_amount));
        mark(work, Mark::done);
      }
      tell<B>(work);
      role.finish_task();
    }
  }
};

template <class P>
__device__ __forceinline__ void compute_role(Shared<P>& s, const LaunchArgs& args, int warp, int lane) {
  Compute<P> role{s, args, warp, lane};
  ComputeVisitor<P> visitor{role};
  for (;;) {
    role.wait_filled();
    int body = role.work().body;
    if constexpr (P::dynamic) {
      // At the end of the list there may still be offers.
      if (body < 0 && !role.offered) role.wait_ready();
      if (role.offered) body = s.offer.work.body;
    }
    if (body < 0) break;
    P::dispatch(body, visitor);
    if (role.leaving) break;
  }
  // Every stage of earlier tasks has been read, so the loader may stop where it is.
  if (warp == 0 && lane == 0) *const_cast<volatile int*>(&s.leave) = 1;
}

template <class P>
struct Publisher {
  Shared<P>& s;
  const LaunchArgs& args;
  int lane;
  u32 taken = 0;
  u32 summed_at = 0;  // in a trace

  __device__ __forceinline__ const float* wait_partial() {
    s.partial_full[taken & 1].wait((taken >> 1) & 1);
    summed_at = trace_clock();
    return s.partial(taken);
  }
  __device__ __forceinline__ void published(const Work& work) {
    __syncwarp();
    if constexpr (P::dynamic) signal<true>(args, work, lane);
    if (lane == 0) {
      if (!P::dynamic && work.signal_event >= 0)
        add_release(args, work.signal_event, u32(work.signal_amount));
      mark(work, Mark::done);
      mark(work, Mark::computed, summed_at);
    }
    arrive_warp(s.partial_empty[taken & 1], lane);
    ++taken;
  }
};

template <class P>
struct PublishVisitor {
  Publisher<P>& role;
  const QueueCursor& queue;

  // Later tasks of this worker may read what a cooperative task writes without an event, and use its
  // memory, so the publisher, which is ahead of them, does not pass one that is not done.
  template <class B>
  __device__ __forceinline__ void visit() {
    if constexpr (B::streams) {
      B::publish(role, role.s.queue.work[queue.entry]);
    } else {
      if constexpr (is_prepared<P, B>) {
        B::prepare(role.s.queue.work[queue.entry], role.s.scratch(), role.lane);
        arrive_warp(role.s.prepared, role.lane);
      }
      role.s.queue.done[queue.entry].wait(queue.parity);
    }
  }
};

template <class P>
__device__ __forceinline__ void publisher_role(Shared<P>& s, const LaunchArgs& args, int lane) {
  Publisher<P> role{s, args, lane};
  QueueCursor queue;
  for (;;) {
    s.queue.ready[queue.entry].wait(queue.parity);
    const Work& work = s.queue.work[queue.entry];
    if (work.stop) return;
    PublishVisitor<P> visitor{role, queue};
    P::dispatch(work.body, visitor);
    arrive_warp(s.queue.empty[queue.entry], lane);
    queue.advance();
  }
}

// A task that the loader is at, in the queue, and how many a worker has in a step.
struct Loading {
  Queue& queue;
  QueueCursor at;
  int of_a_step;

  // Until the same task of the step before is done. Where a worker's step has as many tasks as the queue or
  // more, that is so when this one is in it.
  template <class L>
  __device__ __forceinline__ bool wait_step_before(L& loader) const {
    if (of_a_step >= QUEUE || queue.work[at.entry].step == 0) return true;
    const bool wraps = at.entry < of_a_step;
    Barrier& done = queue.empty[at.entry - of_a_step + (wraps ? QUEUE : 0)];
    while (!__all_sync(0xffffffffu, done.passed(at.parity ^ u32(wraps))))
      if (__any_sync(0xffffffffu, loader.leave)) return false;
    return true;
  }
};

template <class L, class P>
struct LoadVisitor {
  L& loader;
  const Work& work;
  const Loading* loading = nullptr;
  bool alive = true;

  template <class B>
  __device__ __forceinline__ void visit() {
    if constexpr (B::streams) alive = B::load(loader, work);
    else if constexpr (takes_stages<P, B>) alive = loading->wait_step_before(loader) && B::stages::load(loader, work);
    else if constexpr (looks_ahead<B>) B::look_ahead(work, loader.lane);
  }
};

template <class P>
using LoaderOf = Loader<Layout<P>::SLOTS, P::in_flight, Layout<P>::EASE, P>;

template <class P>
__device__ __forceinline__ bool load_batch(Shared<P>& s, LoaderOf<P>& loader, Lookup& next, QueueCursor& queue) {
  // Fill the batch's entries, one lane each.
  const int entry = queue.entry + loader.lane;
  while (!__all_sync(0xffffffffu, loader.lane >= BATCH || s.queue.empty[entry].passed(queue.parity ^ 1))) {
    loader.note_landed();
    if (__any_sync(0xffffffffu, loader.leave)) return false;
  }
  if (loader.lane < BATCH) {
    keep_marks(s.queue.work[entry]);
    next.template write<P::dynamic>(s.queue.work[entry]);
    s.queue.filled[entry].arrive();
  }
  __syncwarp();
  next.skip_to_next();
  for (int i = 0; i < BATCH; ++i) {
    const Work& work = s.queue.work[queue.entry];
    if (i == 0) next.read_task();
    if (i == BATCH / 4) next.read_family();
    if (i == BATCH / 2) next.read_operands();
    if (work.body < 0) return false;
    loader.begin(work, {s.queue.work, queue.entry, BATCH - 1 - i});
    const Loading loading{s.queue, queue, next.count};
    LoadVisitor<LoaderOf<P>, P> visitor{loader, work, &loading};
    P::dispatch(work.body, visitor);
    if (!visitor.alive) return false;
    queue.advance();
  }
  return true;
}

template <class P>
__device__ __forceinline__ void loader_role(Shared<P>& s, const LaunchArgs& args, int lane) {
  LoaderOf<P> loader(s.ring, s.leave, lane);
  Lookup next(args, P::tokens, lane % BATCH);
  QueueCursor queue;
  while (load_batch<P>(s, loader, next, queue)) {
  }
  loader.drain();
}

// What there is one of: one thread.
template <class P>
__device__ __forceinline__ void set_up_others(Shared<P>& s) {
  for (int i = 0; i < 2; ++i) {
    s.partial_full[i].init(COMPUTE_WARPS * ARRIVING);
    s.partial_empty[i].init(ARRIVING);
  }
  s.prepared.init(ARRIVING);
  s.leave = 0;
  if constexpr (P::dynamic) s.offer.init();
  if constexpr (TRACED) {
#pragma unroll 1
    for (Work& work : s.queue.work) forget_marks(work);
    if constexpr (P::dynamic) forget_marks(s.offer.work);
  }
}

// Thread `first` of `threads`, each its part, before roles are played.
template <class P>
__device__ __forceinline__ void set_up(Shared<P>& s, int first = 0, int threads = 1) {
  s.ring.init(first, threads);
  s.queue.init(first, threads);
  if (first == 0) set_up_others<P>(s);
  publish_barriers();
}

template <class P>
inline constexpr bool moves_registers = P::bodies::move_registers(P::registers_from);
// Registers are moved between groups of four warps, so one warp more then, which ends at once.
template <class P>
inline constexpr int threads_of = moves_registers<P> ? THREADS + WARP : THREADS;

template <class P>
__device__ __forceinline__ void move_registers(int warp) {
#if __CUDA_ARCH__ >= 900
  if constexpr (!moves_registers<P>) return;
  else if (warp < COMPUTE_WARPS) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COMPUTE_REGISTERS));
  else asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(OTHER_REGISTERS));
#endif
}

template <class P>
__device__ __forceinline__ void play_role(Shared<P>& s, const LaunchArgs& args, int warp, int lane) {
  if (warp < COMPUTE_WARPS) {
    compute_role<P>(s, args, warp, lane);
  } else if (warp == LOADER_WARP) {
    loader_role<P>(s, args, lane);
  } else if (warp == PUBLISHER_WARP) {
    publisher_role<P>(s, args, lane);
  } else if (warp == DISPATCHER_WARP) {
    dispatcher_role<P>(s, args, lane);
  }
}

template <class P>
__device__ __forceinline__ void run(const LaunchArgs& args) {
  extern __shared__ __align__(1024) char dynamic[];
  Shared<P>& s = *reinterpret_cast<Shared<P>*>(dynamic);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) set_up<P>(s, lane, WARP);
  __syncthreads();
  move_registers<P>(warp);
  play_role<P>(s, args, warp, lane);
  if constexpr (TRACED) {
    __syncthreads();
    if (threadIdx.x < QUEUE) keep_last_marks(s.queue.work, threadIdx.x);
  }
}

}  // namespace mpk

// mpk_facts: worker threads, shared memory, tokens per step, whether queues are served, whether the
// end of a launch is told through Control::answer (1) and tokens through Control::told too (2); for the
// host to check and launch by.
#define MPK_KERNEL(program)                                                                \
  extern "C" __device__ const int mpk_facts[8] = {                                         \
      0, mpk::threads_of<program>, int(sizeof(mpk::Shared<program>)), program::tokens,     \
      mpk::Layout<program>::SLOTS, program::in_flight, program::dynamic, 2};               \
  static_assert(sizeof(mpk::Shared<program>) <= program::shared_bytes, "shared memory");    \
  extern "C" __global__ void __launch_bounds__(mpk::threads_of<program>, 1)                \
      mpk_run(const __grid_constant__ mpk::LaunchArgs args) {                              \
    mpk::run<program>(args);                                                               \
  }
