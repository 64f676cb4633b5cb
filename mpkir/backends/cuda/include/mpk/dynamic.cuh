// Dynamic tasks: queues in global memory, one for each worker, and what a worker does with them.
//
// Whoever completes an event puts what it releases into queues. While a worker's dispatcher waits
// for an event, or for the end of the last step, it looks into the worker's own queue and into
// others' in turn; what it takes out it offers to the compute warps, which run it between the
// tasks of the list. docs/scheduling.md says why nothing is lost, overwritten or waited for in
// vain; include/mpk/queues.hpp of the CPU has the same queues.
#pragma once
#include "abi.cuh"
#include "peers.cuh"
#include "queue.cuh"
#include "sync.cuh"
#include "trace.cuh"

namespace mpk {

// Queue k gets task first + k, first + k + workers, .. once in each step, so it has as many places.
// A place holds (epoch + 1) << 32 | task; who finds another epoch there finds the place empty.
struct Queues {
  // In 64-bit words from a queue's begin: the place to take from next (epoch << 32 | place), and
  // how many were put in since the counters were zero.
  static constexpr int HEAD = 0, TAIL = 8, PLACES = 16;

  const Dynamic& dynamic;
  int workers;

  __device__ __forceinline__ u64* of(int worker) const {
    return dynamic.queues + i64(dynamic.stride) * worker;
  }
  __device__ __forceinline__ u32 places(int worker) const {
    return u32(dynamic.count + workers - 1 - worker) / u32(workers);
  }
  __device__ __forceinline__ const u64* place(int worker, u64 head) const {
    return of(worker) + PLACES + u32(head);
  }
  static __device__ __forceinline__ bool is_next(u64 entry, u64 head) {
    return u32(entry >> 32) == u32(head >> 32) + 1;
  }
  __device__ __forceinline__ u64 after(int worker, u64 head) const {
    return u32(head) + 1 == places(worker) ? u64(u32(head >> 32) + 1) << 32 : head + 1;
  }
  // Lane l puts in task number l of those that an event releases, and every 32nd after it.
  __device__ __forceinline__ void put(int from, int to, u32 epoch, int lane) const {
    for (int task = from + lane; task < to; task += WARP) {
      const int worker = (task - dynamic.first) % workers;
      const u32 place = take_number(of(worker) + TAIL) - places(worker) * epoch;
      store_release(of(worker) + PLACES + place, u64(epoch + 1) << 32 | u32(task));
    }
  }
};

// A task's signal; all lanes of a warp, behind a barrier that follows the task's last store.
template <bool DYNAMIC>
__device__ __forceinline__ void signal(const LaunchArgs& args, const Work& work, int lane) {
  if constexpr (DYNAMIC) {
    if (work.signal_event >= 0 && work.release_arrivals != 0) {
      const int from = args.dynamic.released[work.signal_event];
      const int to = args.dynamic.released[work.signal_event + 1];
      u32 count = 0;
      // Acquire: what the others did before their signals is before the tasks that are released.
      if (lane == 0)
        count = add_acquire_release(args.counters + work.signal_event, u32(work.signal_amount));
      count = from_first_lane(count);
      const u32 epoch = args.epoch + u32(work.step);
      if (count == u32(work.release_arrivals) * (epoch + 1))
        Queues{args.dynamic, int(gridDim.x)}.put(from, to, epoch, lane);
      return;
    }
  }
  if (lane == 0 && work.signal_event >= 0)
    add_release(args, work.signal_event, u32(work.signal_amount));
}

// The task that a dispatcher offers its compute warps, beside those of the list.
struct Offer {
  Work work;
  Barrier made;   // by the dispatcher, only while the list's next task may not start yet
  Barrier taken;  // by all compute warps: the task is done

  // One thread.
  __device__ void init() {
    made.init(1);
    taken.init(COMPUTE_WARPS * ARRIVING);
  }
};

// The dispatcher's side; one lane.
struct Server {
  const LaunchArgs& args;
  Offer& offer;
  const int workers, own;
  const int tokens;          // per step
  int other;                 // whose queue is looked into next
  u64 own_head, other_head;  // as last seen
  u32 offers = 0;

  __device__ Server(const LaunchArgs& args, Offer& offer, int tokens)
      : args(args), offer(offer), workers(int(gridDim.x)), own(int(blockIdx.x)), tokens(tokens) {
    other = own;
    own_head = other_head = load_relaxed(queues().of(own) + Queues::HEAD);
  }
  __device__ __forceinline__ Queues queues() const { return {args.dynamic, workers}; }

  // A look into the own queue and another's. The reads are started here, beside that of the
  // counter that the caller polls, and `serve` looks at what came.
  struct Look {
    u64 own, other, next_head;
    int next;
  };
  __device__ __forceinline__ Look look() const {
    Look seen;
    seen.next = other + 1 == workers ? 0 : other + 1;
    seen.own = load_relaxed(queues().place(own, own_head));
    seen.other = load_relaxed(queues().place(other, other_head));
    seen.next_head = load_relaxed(queues().of(seen.next) + Queues::HEAD);
    return seen;
  }
  // Has a task run that was seen there. False if there was none, or others took it.
  __device__ __forceinline__ bool serve(const Look& seen) {
    if (Queues::is_next(seen.own, own_head)) return claim(own, own_head, seen.own);
    if (Queues::is_next(seen.other, other_head)) return claim(other, other_head, seen.other);
    other = seen.next;
    other_head = seen.next_head;
    return false;
  }

 private:
  __device__ __forceinline__ bool claim(int worker, u64& head, u64 entry) {
    const int task = int(u32(entry));
    const int4* source = reinterpret_cast<const int4*>(args.dynamic_tasks + task - args.dynamic.first);
    int4 found[sizeof(Released) / 16];  // read while the claim is under way
#pragma unroll
    for (int i = 0; i < int(sizeof(Released) / 16); ++i) found[i] = source[i];
    const u64 next = queues().after(worker, head);
    const u64 before = replace(queues().of(worker) + Queues::HEAD, head, next);
    const u32 epoch = u32(head >> 32);
    const bool mine = before == head;
    head = mine ? next : before;
    if (!mine) return false;
    acquire_fence();
    Work& work = offer.work;
    int4* operands = reinterpret_cast<int4*>(work.operand);
#pragma unroll
    for (int i = 0; i < OPERANDS / 2; ++i) operands[i] = found[i];
    const int4 a = found[OPERANDS / 2], b = found[OPERANDS / 2 + 1];
    work.step = int(epoch - args.epoch);
    work.position = args.position + i64(work.step) * tokens;
    work.body = a.x, work.index = a.y, work.family = a.z, work.task = a.w;
    work.signal_event = b.x, work.signal_amount = b.y, work.release_arrivals = b.z;
    work.wait_event = -1, work.stop = 0, work.first = 0;
    work.tag_for(args, epoch);
    work.deadline = deadline_of(args);
    mark(work, Mark::asked);
    mark(work, Mark::ready);
    offer.made.arrive();
    offer.taken.wait(offers & 1);
    ++offers;
    return true;
  }
};

}  // namespace mpk
