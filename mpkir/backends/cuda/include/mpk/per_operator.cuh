// One kernel for each body, started once for each family of a step, in the order of the program.
//
// The other way to run a program's bodies: no table, events or queues in memory, the order of kernels
// in a stream stands for all of them. Each kernel is started while the one before still runs
// (programmatic dependent launch): it sets up and streams its first weights, which nobody writes, and
// waits for the kernel before only then. A kernel ends after its own wait, so when one has ended, all
// before it have. Two kernels have to fit on an SM for that, so each takes half of its shared memory
// and registers; one whose body needs more has the SM to itself.
//
// A step's first kernel lets the next one start only behind its wait, when the step before is over.
// So where the run stands is known to all others before they wait.
//
//   MPK_OPERATORS(machine, mpk::Operator<machine, kernel_0>, ..)   once
//   MPK_OPERATOR(0, kernel_0, machine)                             for each body
//
// where `machine` has tokens, shared_bytes and ring_slots like a program (runtime.cuh), and half_bytes and
// half_slots, the same for one of two kernels that share an SM.
#pragma once
#include "runtime.cuh"

#ifdef MPK_TRACE
#error "a program with one kernel for each operator keeps no trace: look at it with a profiler"
#endif

namespace mpk {

// Where a run stands; the last kernel of a step moves it on.
struct Progress {
  i64 position;  // of the step's first token
  int step;      // of the run
  u32 arrived;   // CTAs of the step's last kernel that are done
};

struct OperatorArgs {
  LaunchArgs launch;  // of which bodies read the control
  void* operand[OPERANDS];
  Progress* progress;
  int family, tasks;  // its number, and how many tasks it has: CTA c runs c, c + CTAs, ..
  int first, last;    // whether it is that in its step
};

// Fewest slots of a ring that are worth half of an SM.
constexpr int LEAST_SLOTS = 3;

// What a kernel of this body needs beside the ring.
template <class B>
struct BodyNeeds {
  static constexpr int shared_bytes = 1 << 30, ring_slots = 2, in_flight = 1, ease = 0;
  static constexpr bool dynamic = false;
  using bodies = Bodies<B>;
  static constexpr int bytes = B::streams ? Layout<BodyNeeds>::FIXED : Layout<BodyNeeds>::SCRATCH;
};

// A program of one body.
template <class Machine, class B>
struct Operator {
  static constexpr bool dynamic = false, stages = false;
  static constexpr int in_flight = 1, ease = 0;  // what Layout asks to have room for
  static constexpr int tokens = Machine::tokens;
  using bodies = Bodies<B>;
  using body = B;
  static constexpr int threads = B::streams ? THREADS : COMPUTE_THREADS;

  // Half of an SM; all of it if that is too little for the body.
  static constexpr bool halves =
      BodyNeeds<B>::bytes + (B::streams ? LEAST_SLOTS * (SLOT + 16) : 0) <= Machine::half_bytes;
  static constexpr int shared_bytes = halves ? Machine::half_bytes : Machine::shared_bytes;
  static constexpr int ring_slots = halves ? Machine::half_slots : Machine::ring_slots;
  static constexpr int blocks = halves ? 2 : 1;  // of an SM

  template <class Visitor>
  static __device__ __forceinline__ void dispatch(int, Visitor& visitor) {
    visitor.template visit<B>();
  }
};

// The memory of a kernel: that of a worker if it streams, else its body's scratch.
template <class P>
constexpr int operator_shared() {
  if constexpr (P::body::streams) {
    return int(sizeof(Shared<P>));
  } else {
    return Layout<P>::SCRATCH;
  }
}

// Lets the next kernel start where there is room, when all CTAs have said so.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Until all kernels before have ended; what they wrote is there for all of this one.
__device__ __forceinline__ void wait_for_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// What a kernel has to know of the run. It stays the same while the kernel runs, because a body can
// only ask for a stop behind its own step.
struct Standing {
  i64 position;
  int step;
  bool over;  // the step is behind the run's last

  __device__ __forceinline__ explicit Standing(const OperatorArgs& args) {
    const Control* control = args.launch.control;
    position = *const_cast<const volatile i64*>(&args.progress->position);
    step = load_relaxed(&args.progress->step);
    const int stop_at = load_relaxed(&control->stop_at), fault = load_relaxed(&control->fault);
    over = (step >= stop_at) | (fault != 0);  // all four asked for at once
  }
};

// Waits for its turn and says where the run stands.
__device__ __forceinline__ Standing wait_for_turn(const OperatorArgs& args) {
  if (args.first) {
    wait_for_kernels();
    let_next_start();
    return Standing(args);
  }
  const Standing standing(args);
  wait_for_kernels();
  return standing;
}

// What is known of a task before the wait.
__device__ __forceinline__ void describe(Work& work, const OperatorArgs& args, int index) {
#pragma unroll
  for (int i = 0; i < OPERANDS; ++i) work.operand[i] = args.operand[i];
  work.body = index < args.tasks ? 0 : -1;
  work.index = index;
  work.family = args.family;
  work.task = -1;
  work.wait_event = work.signal_event = -1;
  work.stop = index >= args.tasks;
  work.first = 0;
  work.release_arrivals = 0;
  work.deadline = 0;
  work.control = args.launch.control;
}
__device__ __forceinline__ void place(Work& work, const Standing& standing) {
  work.position = standing.position;
  work.step = standing.step;
  work.tag = u32(standing.step) + 1;
  if (standing.over) work.stop = 1;
}

// ---- bodies that stream: the roles of a worker ----

template <class P>
__device__ __forceinline__ void operator_loader(Shared<P>& s, const OperatorArgs& args, int lane) {
  using L = Loader<Layout<P>::SLOTS, Layout<P>::SLOTS - 1>;  // nobody polls behind these copies
  L loader(s.ring, s.leave, lane);
  QueueCursor queue;
  for (int index = blockIdx.x;; index += gridDim.x) {
    bool leave = false;
    while (!__all_sync(0xffffffffu, s.queue.empty[queue.entry].passed(queue.parity ^ 1)))
      if ((leave = __any_sync(0xffffffffu, loader.leave))) break;
    if (leave) break;
    Work& work = s.queue.work[queue.entry];
    if (lane == 0) {
      describe(work, args, index);
      s.queue.filled[queue.entry].arrive();
    }
    __syncwarp();
    if (index >= args.tasks) break;
    LoadVisitor<L, P> visitor{loader, work};
    P::dispatch(0, visitor);
    if (!visitor.alive) break;
    queue.advance();
  }
  loader.drain();
}

template <class P>
__device__ __forceinline__ void operator_dispatcher(Shared<P>& s, const OperatorArgs& args, int lane) {
  if (lane != 0) return;
  const Standing standing = wait_for_turn(args);
  QueueCursor queue;
  for (;;) {
    s.queue.filled[queue.entry].wait(queue.parity);
    Work& work = s.queue.work[queue.entry];
    place(work, standing);
    const bool leave = work.stop;
    s.queue.ready[queue.entry].arrive();
    if (leave) return;
    queue.advance();
  }
}

template <class P>
__device__ __forceinline__ void play_operator(Shared<P>& s, const OperatorArgs& args, int warp, int lane) {
  if (warp < COMPUTE_WARPS) {
    compute_role<P>(s, args.launch, warp, lane);
  } else if (warp == LOADER_WARP) {
    operator_loader<P>(s, args, lane);
  } else if (warp == PUBLISHER_WARP) {
    publisher_role<P>(s, args.launch, lane);
  } else {
    operator_dispatcher<P>(s, args, lane);
  }
}

// ---- the others: all threads compute ----

template <class P>
__device__ __forceinline__ void run_cooperative(const OperatorArgs& args, char* scratch) {
  const Standing standing = wait_for_turn(args);
  if (standing.over) return;
  for (int index = blockIdx.x; index < args.tasks; index += gridDim.x) {
    Work work;
    describe(work, args, index);
    place(work, standing);
    P::body::run(work, args.launch, scratch);
    compute_sync();
  }
}

// By one thread of each CTA of a step's last kernel, when its tasks are done.
__device__ __forceinline__ void end_step(const OperatorArgs& args, int tokens) {
  if (Standing(args).over) return;
  Progress& progress = *args.progress;
  if (add_acquire_release(&progress.arrived, 1) != gridDim.x) return;
  progress.arrived = 0;
  progress.position += tokens;
  progress.step += 1;
}

template <class P>
__device__ __forceinline__ void run_operator(const OperatorArgs& args) {
  extern __shared__ __align__(1024) char dynamic[];
  if (!args.first) let_next_start();
  if constexpr (P::body::streams) {
    Shared<P>& s = *reinterpret_cast<Shared<P>*>(dynamic);
    if (threadIdx.x == 0) set_up<P>(s);
    __syncthreads();
    play_operator<P>(s, args, threadIdx.x / 32, threadIdx.x % 32);
  } else {
    run_cooperative<P>(args, dynamic);
  }
  if (args.last) {
    __syncthreads();
    if (threadIdx.x == 0) end_step(args, P::tokens);
  }
}

// What the host has to know of a kernel.
struct OperatorFacts {
  int threads, shared_bytes, streams, reserved;
};
template <class P>
constexpr OperatorFacts operator_facts() {
  return {P::threads, operator_shared<P>(), P::body::streams, 0};
}

}  // namespace mpk

// mpk_facts is that of MPK_KERNEL where it applies; its last entry counts kernels.
#define MPK_OPERATORS(machine, count, ...)                                                   \
  extern "C" __device__ const int mpk_facts[8] = {                                           \
      0, mpk::THREADS, machine::shared_bytes, machine::tokens, 0, 0, 0, count};              \
  extern "C" __device__ const mpk::OperatorFacts mpk_operators[count] = {__VA_ARGS__};
#define MPK_OPERATOR(number, machine, body)                                                  \
  using operator_##number = mpk::Operator<machine, body>;                                    \
  static_assert(mpk::operator_shared<operator_##number>() <= operator_##number::shared_bytes, \
                "shared memory");                                                            \
  extern "C" __global__ void                                                                 \
      __launch_bounds__(operator_##number::threads, operator_##number::blocks)               \
      mpk_run_##number(const __grid_constant__ mpk::OperatorArgs args) {                     \
    mpk::run_operator<operator_##number>(args);                                              \
  }
