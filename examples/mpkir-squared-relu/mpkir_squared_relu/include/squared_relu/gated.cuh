#include <mpk/reduce.cuh>

// One warp for each output element. A printed body says COUNT, K, x, gate, up and store.
template <class B>
struct SquaredRelu {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const mpk::Work& work, const mpk::LaunchArgs&, char*) {
    for (int i = threadIdx.x / 32; i < B::COUNT; i += mpk::COMPUTE_WARPS) {
      float gate = 0.0f, up = 0.0f;
      for (int k = threadIdx.x % 32; k < B::K; k += 32) {
        gate = fmaf(B::x(work, i, k), B::gate(work, i, k), gate);
        up = fmaf(B::x(work, i, k), B::up(work, i, k), up);
      }
      gate = mpk::warp_join<mpk::Add>(gate), up = mpk::warp_join<mpk::Add>(up);
      if (threadIdx.x % 32 == 0) B::store(work, i, (gate < 0.0f ? 0.0f : gate * gate) * up);
    }
  }
};
