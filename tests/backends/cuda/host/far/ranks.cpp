// Ranks on hosts, each with some threads, send each other words and plain elements, step after step.
// ranks.cpp HOSTS: so many hosts share the MPK_RANKS ranks.
#include <memory>
#include <thread>
#include <vector>

#include "peers.cuh"

namespace {

using namespace mpk;

constexpr int THREADS = 2, COLUMNS = 6, STEPS = 100;
// Events: one of the own tasks, then the peers': all is sent, all is read.
constexpr int LOCAL = 0, SENT = 1, READ = 2, EVENTS = 3, FIRST = 1;

struct Heap {
  u32 counters[EVENTS];
  Exchanged<float> words[RANKS][COLUMNS];
  Exchanged<bf16> halves[RANKS][COLUMNS];
  float plain[RANKS][COLUMNS];
  unsigned short shorts[RANKS][COLUMNS];
  unsigned char bytes[RANKS][COLUMNS];
  i64 longs[RANKS][COLUMNS];
  float parts[RANKS];
  u32 told[RANKS][EVENTS - FIRST];
};

struct Rank {
  Heap heap;
  u64 own[EVENTS - FIRST];
  u32 steps[EVENTS - FIRST];
};

int number_of(int rank, int column, int step) { return 10007 * step + 101 * rank + column; }

void wait(const LaunchArgs& args, int event, u32 target) {
  const u32* counter = args.counters + event;
  while (int(load_event(counter) - target) < 0) sched_yield();
  see_event(counter);
}

template <class W>
W await_word(const W& word, u32 tag, u32 mask) {
  for (;;) {
    const W found = __atomic_load_n(&word, __ATOMIC_RELAXED);
    const u32 mark = sizeof(W) == 8 ? u32(u64(found) >> 32) : u32(found);
    if ((mark & mask) == (tag & mask)) return found;
    sched_yield();
  }
}

// The last thread of a rank signals for all that its threads have sent.
void run_thread(Heap& heap, int rank, int thread) {
  LaunchArgs args{};
  args.counters = heap.counters;
  Work work{};
  for (int step = 0; step < STEPS; ++step) {
    work.tag = u32(step) + 1;
    wait(args, READ, u32(RANKS * THREADS * step));
    for (int c = thread; c < COLUMNS; c += THREADS) {
      const int number = number_of(rank, c, step);
      store_all<COLUMNS>(&heap.plain[rank][c], float(number));
      store_all<COLUMNS>(&heap.shorts[rank][c], static_cast<unsigned short>(number));
      store_all<COLUMNS>(&heap.bytes[rank][c], static_cast<unsigned char>(number));
      store_all<COLUMNS>(&heap.longs[rank][c], i64(number) << 20);
      publish_all<COLUMNS>(&heap.words[rank][c], float(number), work);
      publish_all<COLUMNS>(&heap.halves[rank][c], bf16{static_cast<unsigned short>(number)}, work);
    }
    if (thread == 0)
      for (int part = 0; part < RANKS; ++part)
        store_part<1, RANKS>(&heap.parts[rank], float(number_of(rank, part, step)), part);
    add_release(args, LOCAL, 1);
    if (thread == THREADS - 1) {
      wait(args, LOCAL, u32(THREADS * (step + 1)));
      add_release(args, SENT, THREADS);
    }
    wait(args, SENT, u32(RANKS * THREADS * (step + 1)));
    for (int r = 0; r < RANKS; ++r) {
      if (heap.parts[r] != float(number_of(r, rank, step))) refuse("a part came after the signal");
      for (int c = 0; c < COLUMNS; ++c) {
        const int number = number_of(r, c, step);
        if (heap.plain[r][c] != float(number)) refuse("an element came after the signal");
        if (heap.shorts[r][c] != static_cast<unsigned short>(number)) refuse("a short came after the signal");
        if (heap.bytes[r][c] != static_cast<unsigned char>(number)) refuse("a byte came after the signal");
        if (heap.longs[r][c] != i64(number) << 20) refuse("a long came after the signal");
      }
    }
    for (int r = 0; r < RANKS; ++r) {
      for (int c = 0; c < COLUMNS; ++c) {
        const int number = number_of(r, c, step);
        const u64 word = await_word(heap.words[r][c].word, work.tag, ~0u);
        if (word != tagged_word(float(number), work)) refuse("another word");
        const u32 half = await_word(heap.halves[r][c].word, work.tag, 0xffff);
        if (half >> 16 != u32(number & 0xffff)) refuse("another half");
      }
    }
    add_release(args, READ, 1);
  }
}

}  // namespace

int main(int, char** arguments) {
  const int each = RANKS / std::atoi(arguments[1]);
  const auto ranks = std::make_unique<Rank[]>(RANKS);
  network.ranks = RANKS;
  network.bytes = sizeof(Heap);
  for (int r = 0; r < RANKS; ++r) {
    ranks[r] = {};
    network.heap[r] = reinterpret_cast<char*>(&ranks[r].heap);
    for (int q = 0; q < RANKS; ++q)
      if (q / each != r / each) network.far_from[r] |= 1u << q;
    for (u32& steps : ranks[r].steps) steps = THREADS;
  }
  std::vector<std::thread> threads;
  for (int r = 0; r < RANKS; ++r) {
    for (int t = 0; t < THREADS; ++t) {
      threads.emplace_back([&, r, t] {
        own_pe = r;
        Rank& own = ranks[r];
        mpk_peers = {r, RANKS, FIRST, 0, {}};
        for (int q = 0; q < RANKS; ++q) {
          // There is nothing where a far rank's memory would be.
          const bool far = network.far_from[r] >> q & 1;
          mpk_peers.delta[q] = far ? i64(1) << 60 : network.heap[q] - network.heap[r];
        }
        mpk_far = {network.far_from[r], EVENTS - FIRST, own.heap.counters + FIRST,
                   own.own,             own.steps,      own.heap.told[0]};
        run_thread(own.heap, r, t);
      });
    }
  }
  std::thread moving([] {
    while (!__atomic_load_n(&network.over, __ATOMIC_RELAXED)) network.move();
  });
  for (std::thread& thread : threads) thread.join();
  __atomic_store_n(&network.over, true, __ATOMIC_RELAXED);
  moving.join();
  // An event's arrivals of a step are told once, to each far rank.
  const long once = 6 * COLUMNS + 1 + EVENTS - FIRST;
  for (int r = 0; r < RANKS; ++r)
    if (network.puts[r] != STEPS * once * (RANKS - each)) refuse("puts too many or too few");
  std::printf("%ld\n", network.puts[0]);
}
