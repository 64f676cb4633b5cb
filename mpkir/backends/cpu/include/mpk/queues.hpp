// Queues of released tasks, one for each worker. Whoever completes an event puts in the tasks it
// releases; their workers take them out, or others who have nothing to do.
//
// Task t is always put into the same queue, so a queue gets the same number of tasks in each step:
// that many places are enough, because all of a step are out before any of the next comes in. A
// place holds (epoch + 1, task); who finds another epoch there finds the place empty.
#pragma once

#include "mpk/abi.hpp"

namespace mpk {

struct Queues {
  using Word = unsigned long long;

  // In 64-bit words from a queue's begin; a line of the cache for the place to take from next
  // (epoch << 32 | place), one for the number put in since the counters were zero.
  static constexpr int HEAD = 0, TAIL = 8, PLACES = 16;

  const Dynamic& dynamic;
  int workers;

  struct Taken {
    int task = -1;  // -1: nothing was there
    unsigned epoch = 0;
  };

  // The number of tasks that a queue gets in a step.
  unsigned places(int worker) const {
    return unsigned((dynamic.count + workers - 1 - worker) / workers);
  }

  // Puts in what an event releases in an epoch.
  void release(int event, unsigned epoch) const {
    for (int task = dynamic.released[event]; task < dynamic.released[event + 1]; ++task) {
      const int worker = (task - dynamic.first) % workers;
      Word* queue = of(worker);
      const unsigned number = unsigned(__atomic_fetch_add(queue + TAIL, 1, __ATOMIC_RELAXED));
      const unsigned place = number - places(worker) * epoch;
      __atomic_store_n(queue + PLACES + place, Word(epoch + 1) << 32 | unsigned(task),
                       __ATOMIC_RELEASE);
    }
  }

  // Takes out the first task of a worker's queue.
  Taken take(int worker) const {
    const unsigned count = places(worker);
    if (count == 0) return {};
    Word* queue = of(worker);
    Word head = __atomic_load_n(queue + HEAD, __ATOMIC_RELAXED);
    for (;;) {
      const unsigned epoch = unsigned(head >> 32), place = unsigned(head);
      const Word entry = __atomic_load_n(queue + PLACES + place, __ATOMIC_ACQUIRE);
      if (unsigned(entry >> 32) != epoch + 1) return {};
      const Word next = place + 1 == count ? Word(epoch + 1) << 32 : head + 1;
      if (__atomic_compare_exchange_n(queue + HEAD, &head, next, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED))
        return {int(unsigned(entry)), epoch};
    }
  }

 private:
  Word* of(int worker) const { return dynamic.queues + long(dynamic.stride) * worker; }
};

}  // namespace mpk
