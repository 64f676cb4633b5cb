// Rounds of one-shot all-reduces that depend on each other, in one persistent kernel, with the device
// library's own stores, polls and skeleton. `allreduce.py` puts #define MPK_RANKS before this.
//
// A round: every CTA publishes its tiles of the rank's partial sums to all ranks, then adds the rows of
// all ranks and publishes the sums, rounded to bf16, on this GPU: the two tasks of an all_reduce. The
// next round's partial sums are made from
//   tile    the CTA's own sums: what an all-reduce takes
//   all     them, once it has seen the sums of all CTAs: what its readers see of it
#include <mpk/peers.cuh>
#include <mpk/pointwise.cuh>

namespace {

using mpk::Work;
using mpk::u32;
using Partial = mpk::Exchanged<float>;
using Sum = mpk::Tagged<mpk::bf16>;

struct Arguments {
  Partial* exchange;  // [2, RANKS, columns], by turns: who is a round ahead overwrites nothing
  Sum* sums;          // [2, columns]
  float* last;        // [columns]: the sums of the last round
  long long* times;   // [2]: nanoseconds, behind the warm-up and at the end
  mpk::Control* control;
  u32 done;           // rounds of earlier launches
  int rounds, warm;
};

__shared__ float own_sum[1024];

template <int COLUMNS, int TILE>
struct Reduce {
  static constexpr int COUNT = TILE;
  MPK_MEMBER const Partial* p0(const Work& w, int row, int i) {
    return w.at<Partial>(0) + (row * COLUMNS + w.index * TILE + i);
  }
  MPK_MEMBER Sum* p1(const Work& w, int i) { return w.at<Sum>(1) + (w.index * TILE + i); }
  struct Sent {
    mpk::Fetched<Partial, 1> s[mpk::RANKS];
    __device__ __forceinline__ void request(const Work& w, int i) {
#pragma unroll
      for (int r = 0; r < mpk::RANKS; ++r) s[r].request(p0(w, r, i));
    }
    __device__ __forceinline__ bool arrived(u32 tag) const {
      bool all = true;
#pragma unroll
      for (int r = 0; r < mpk::RANKS; ++r) all &= s[r].arrived(tag);
      return all;
    }
  };
  MPK_MEMBER void element(const Work& w, int i, const Sent& sent) {
    float sum = sent.s[0].get(0);
#pragma unroll
    for (int r = 1; r < mpk::RANKS; ++r) sum = __fadd_rn(sum, sent.s[r].get(0));
    mpk::publish(p1(w, i), sum, w);
    own_sum[w.index / gridDim.x * TILE + i] = mpk::round_bf16(sum);
  }
};

// Polls all sums as a product polls its x: each warp an eighth, all of it under way at once.
template <int COLUMNS>
__device__ __forceinline__ float see_all(const Work& w) {
  constexpr int EACH = COLUMNS / mpk::COMPUTE_THREADS, GROUPS = EACH / 4;
  const Sum* x = w.at<Sum>(1) + threadIdx.x / 32 * (32 * EACH) + threadIdx.x % 32 * 4;
  mpk::Fetched<Sum, 4> group[GROUPS];
  mpk::await_all<4>(w, [&](int i) { return x + i * 128; }, [](int) { return true; }, group);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < GROUPS; ++i) sum += group[i].get(0) + group[i].get(1) + group[i].get(2) + group[i].get(3);
  return sum;
}

template <int COLUMNS, int TILE, bool ALL>
__device__ __forceinline__ void rounds(const Arguments& given) {
  constexpr int TILES = COLUMNS / TILE;
  const int own = (TILES - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x) * TILE;
  for (int i = threadIdx.x; i < own; i += blockDim.x) own_sum[i] = 0.0f;
  __syncthreads();
  Work w = {};
  w.control = given.control;
  w.deadline = u32((mpk::nanoseconds() + 5000000000ll) >> 20) | 1;
  float seen = 0.0f;
  for (int round = 0; round < given.rounds; ++round) {
    if (round == given.warm && blockIdx.x == 0 && threadIdx.x == 0) given.times[0] = mpk::nanoseconds();
    const u32 number = given.done + u32(round);
    w.tag = number + 1;
    w.operand[0] = given.exchange + (number & 1) * (mpk::RANKS * COLUMNS);
    w.operand[1] = given.sums + (number & 1) * COLUMNS;
    for (int i = threadIdx.x; i < own; i += blockDim.x) {
      const int column = (i / TILE * int(gridDim.x) + int(blockIdx.x)) * TILE + i % TILE;
      const float more = float(mpk::own_rank() + 1 + (round * 7 + column) % 16);
      const float value = __fadd_rn(__fmul_rn(own_sum[i], 0.5f / mpk::RANKS), more);
      Partial* place = w.at<Partial>(0) + (mpk::own_rank() * COLUMNS + column);
      mpk::publish_all<COLUMNS>(place, __fadd_rn(value, __fmul_rn(seen, 0.0f)), w);
    }
    for (w.index = blockIdx.x; w.index < TILES; w.index += gridDim.x)
      mpk::Gathered<Reduce<COLUMNS, TILE>>::run(w, {}, nullptr);
    if constexpr (ALL) seen = see_all<COLUMNS>(w);
    __syncthreads();
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) given.times[1] = mpk::nanoseconds();
  for (int i = threadIdx.x; i < own; i += blockDim.x)
    given.last[(i / TILE * int(gridDim.x) + int(blockIdx.x)) * TILE + i % TILE] = own_sum[i];
}

}  // namespace

#define ALLREDUCE(COLUMNS, TILE, ALL)                                                        \
  extern "C" __global__ void __launch_bounds__(mpk::COMPUTE_THREADS, 1)                      \
      allreduce_##COLUMNS##_##TILE##_##ALL(const __grid_constant__ Arguments given) {        \
    rounds<COLUMNS, TILE, ALL>(given);                                                       \
  }
