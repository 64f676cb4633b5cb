// A program of the three bodies, all workers at once.
#include <thread>
#include <vector>

#include "program.hpp"

namespace {

struct program {
  static constexpr int tokens = 1, shared_bytes = 1 << 20, ring_slots = 3, in_flight = 2;
  static constexpr int ease = 1, pace = 0, long_pace = 0, long_from = 0, ahead = 0;
  static constexpr bool stages = true;
  static constexpr int registers_from = 0;
  static constexpr bool dynamic = ANY_DYNAMIC;
  using bodies = mpk::Bodies<Plain, Stream, Staged>;
  template <class Visitor>
  static void dispatch(int body, Visitor& visitor) {
    switch (body) {
      case 0: visitor.template visit<Plain>(); break;
      case 1: visitor.template visit<Stream>(); break;
      case 2: visitor.template visit<Staged>(); break;
    }
  }
};

}  // namespace

extern "C" int mpk_run(const LaunchArgs* args, int workers) {
  constexpr int warps = mpk::THREADS / 32;
  gridDim.x = workers;
  std::vector<mpk::Shared<program>> shared(workers);
  std::vector<pthread_barrier_t> barriers(workers);
  std::vector<std::thread> threads;
  for (int worker = 0; worker < workers; ++worker) {
    mpk::set_up<program>(shared[worker]);
    pthread_barrier_init(&barriers[worker], nullptr, mpk::COMPUTE_WARPS);
    for (int warp = 0; warp < warps; ++warp)
      threads.emplace_back([&, worker, warp] {
        blockIdx.x = worker, threadIdx.x = 32 * warp;
        compute_barrier = &barriers[worker];
        mpk::play_role<program>(shared[worker], *args, warp, 0);
      });
  }
  for (std::thread& thread : threads) thread.join();
  for (int worker = 0; worker < workers; ++worker) {
    blockIdx.x = worker;
    for (int entry = 0; entry < mpk::QUEUE; ++entry) mpk::keep_last_marks(shared[worker].queue.work, entry);
  }
  return args->control->fault;
}
