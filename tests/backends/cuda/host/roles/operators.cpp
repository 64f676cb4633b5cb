// The same two bodies (program.hpp) as kernels, each started before the one before has ended, as a GPU
// with programmatic dependent launch may.
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "per_operator.cuh"
#include "program.hpp"

namespace {

struct machine {
  static constexpr int tokens = 1, shared_bytes = 1 << 20, ring_slots = 3;
  static constexpr int half_bytes = shared_bytes, half_slots = ring_slots;
};

struct Kernel {
  mpk::OperatorArgs args;
  int body, blocks;
};

constexpr int KERNELS = 256;
// How many kernels have ended, and how many blocks of each have let the next one start.
std::atomic<int> ended;
std::atomic<int> letting[KERNELS];
// Which kernel a thread is of, and whether its block has done so.
thread_local int number;
thread_local std::atomic<bool>* has_let;

// One block; its threads last until the kernel before has ended and their tasks are done.
template <class P>
void run_block(const Kernel& kernel, int me, int block) {
  constexpr int warps = P::body::streams ? mpk::THREADS / 32 : mpk::COMPUTE_WARPS;
  auto shared = std::make_unique<mpk::Shared<P>>();
  mpk::set_up<P>(*shared);
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, mpk::COMPUTE_WARPS);
  std::atomic<bool> let{false};
  std::vector<std::thread> threads;
  for (int warp = 0; warp < warps; ++warp)
    threads.emplace_back([&, warp] {
      number = me, has_let = &let;
      if (!kernel.args.first) mpk::let_next_start();
      gridDim.x = kernel.blocks, blockIdx.x = block, threadIdx.x = 32 * warp;
      compute_barrier = &barrier;
      if constexpr (P::body::streams) {
        mpk::play_operator<P>(*shared, kernel.args, warp, 0);
      } else {
        mpk::run_cooperative<P>(kernel.args, shared->scratch());
      }
    });
  for (std::thread& thread : threads) thread.join();
  gridDim.x = kernel.blocks;
  if (kernel.args.last) mpk::end_step(kernel.args, P::tokens);
}

void run_kernel(const Kernel& kernel, int me) {
  std::vector<std::thread> blocks;
  for (int block = 0; block < kernel.blocks; ++block)
    blocks.emplace_back([&, block] {
      if (kernel.body == 0) {
        run_block<mpk::Operator<machine, Plain>>(kernel, me, block);
      } else {
        run_block<mpk::Operator<machine, Stream>>(kernel, me, block);
      }
    });
  for (std::thread& block : blocks) block.join();
  ++ended;
}

}  // namespace

namespace mpk {
void wait_for_kernels() {
  while (ended.load() < number) sched_yield();
}
void let_next_start() {
  if (!has_let->exchange(true)) ++letting[number];
}
}  // namespace mpk

// A graph of `steps` steps of `count` kernels, up to three of which run at a time.
extern "C" void mpk_replay(const Kernel* kernels, int count, int steps) {
  ended = 0;
  for (auto& each : letting) each = 0;
  std::vector<std::thread> running;
  for (int me = 0; me < count * steps; ++me) {
    if (me >= 3) running[me - 3].join();
    while (me > 0 && letting[me - 1].load() < kernels[(me - 1) % count].blocks) sched_yield();
    running.emplace_back(run_kernel, std::cref(kernels[me % count]), me);
  }
  for (std::thread& kernel : running)
    if (kernel.joinable()) kernel.join();
}
