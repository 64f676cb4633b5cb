// The product on tensor cores, over weights packed in the order in which they are used.
//
// A packed weight [N, K] lies as [N/8][K/32][8][32]: blocks of 8 rows by 32 columns, 512 bytes. A
// stage of the ring is 8 rows by K / PARTS columns, one copy. A lane's 16 bytes of a block are 8
// neighbours of a row, pairs 0, 2, 1 and 3, which x meets in their order (packed_fragments.cuh). What
// rounding x to bf16 lost is multiplied, too, so x counts as 16 bits more (of two tokens only if that
// fits, of more not).
//
// Each compute warp owns an eighth of every stage's columns. It fetches and converts its own part of
// x into its own shared memory, so no warp waits for another before the product; a norm's factor is
// a number for each row of x, and multiplies the sums instead of x.
//
// Beside the contract of linear.cuh a printed body says
//   static constexpr bool polls;        all it reads but parameters carries marks
//   struct prologue {
//     static constexpr bool direct;     x is an operand as it is, neighbours in memory:
//     using X = mpk::Tagged<mpk::bf16>; static __device__ const X* x(const Work&, int t, int k);
//     static constexpr bool exact;      x is bf16 without loss
//     using Scale = mpk::bf16;          and more of the norm's weights: norm_scales.cuh
//   };
#pragma once
#include "packed_columns.cuh"
#include "packed_fragments.cuh"
#include "packed_rows.cuh"
#include "packed_shape.cuh"
#include "packed_sums.cuh"

namespace mpk {

// One of two types.
template <bool FIRST, class A, class B>
struct Either {
  using type = A;
};
template <class A, class B>
struct Either<false, A, B> {
  using type = B;
};

template <class B>
struct PackedLinear {
  using S = PackedShape<B>;
  using X = PackedRows<B>;
  using Columns = typename Either<S::FEW, FewTokens<B>, ManyTokens<B>>::type;
  using Held = PackedHeld<B>;
  using prologue = typename B::prologue;
  static constexpr bool streams = true;
  static constexpr int T = B::T, ROWS = B::ROWS, J = B::J, BW = S::BW, PP = S::PP;
  static constexpr bool NORM = S::NORM;
  static constexpr bool in_passes = S::PASSES > 1 && !S::STRAIGHT;  // through shared memory
  static constexpr int scratch_bytes = COMPUTE_WARPS * (S::X + 16 * ceil_div(T, 4));
  static constexpr int partial_bytes = S::PARTIAL;
  static constexpr bool publisher_looks = best_of<B> > 0;

  // ---- loader ----

  // The norm's weights into L2: compute warps ask for them when they need them, some of them behind x.
  static __device__ __forceinline__ void ask_ahead(const Work& work, int lane) {
    if constexpr (NORM) {
      if constexpr (!is_same<typename prologue::Scale, void>) {
        constexpr int TASKS = 16;  // of so many, one asks
        if (work.index % TASKS == 0 && lane == 0)
          fetch_to_l2(prologue::scale_row(work), B::K * int(sizeof(typename prologue::Scale)));
      }
    }
  }
  template <class L>
  static __device__ __forceinline__ bool load(L& loader, const Work& work) {
    ask_ahead(work, loader.lane);
    constexpr int STAGE = ROW_GROUP * S::COLUMNS * 2;
    const int groups = S::groups_of(work);
    const i64 first = i64(B::first_row(work.index)) * (B::K * 2);
    [[maybe_unused]] int issued = 0;
    // The k-th stage from the present one on, of this task or of those that follow.
    [[maybe_unused]] const auto upcoming = [&](int k) -> const char* {
      const int each = groups * B::PARTS, tasks = (issued + k) / (J * each);
      const Work* const of = loader.tasks.at(tasks);
      if (of == nullptr || S::groups_of(*of) != groups) return nullptr;
      const int n = issued + k - tasks * (J * each), j = J == 1 ? 0 : n / each;
      return of->template at<char>(B::weight(j)) + i64(B::first_row(of->index)) * (B::K * 2) +
             (n - j * each) * i64(STAGE);
    };
#pragma unroll 1
    for (int pass = 0; pass < S::PASSES; ++pass) {
      const int parts = least(PP, B::PARTS - pass * PP);
#pragma unroll 1
      for (int j = 0; j < J; ++j) {
        const char* source = work.at<char>(B::weight(j)) + first + pass * (PP * STAGE);
#pragma unroll 1
        for (int g = 0; g < groups; ++g)
#pragma unroll 1
          for (int p = 0; p < parts; ++p) {
            const char* const stage = source + (g * B::PARTS + p) * i64(STAGE);
            if constexpr (L::looks && S::PASSES == 1) {
              if (!loader.issue(stage, STAGE, upcoming)) return false;
              ++issued;
            } else {
              if (!loader.issue(stage, STAGE)) return false;
            }
          }
      }
    }
    return true;
  }

  // ---- compute ----

  // Whether x stays in registers, for all stages.
  static constexpr bool HOLDS = B::PARTS % PP == 0 && PP * Columns::REGISTERS <= 64;

  // The warp's columns of the stage that comes next.
  struct Weights {
    uint4 block[BW];

    template <class C>
    __device__ __forceinline__ void read(C& role) {
      const char* place = role.wait_stage() + role.warp * (BW * BLOCK_BYTES) + role.lane * 16;
#pragma unroll
      for (int b = 0; b < BW; ++b)
        if (S::BLOCKS % COMPUTE_WARPS == 0 || role.warp * BW + b < S::BLOCKS)
          block[b] = *reinterpret_cast<const uint4*>(place + b * BLOCK_BYTES);
    }
  };

  // `square`: with one token, this lane's part of the sum of squares.
  template <class C>
  static __device__ __forceinline__ void task(C& role, const Work& work, float* partial, float square) {
    const int groups = S::groups_of(work), lane = role.lane, warp = role.warp;
    char* const own = role.own_scratch();
    typename X::Rows rows;
    if constexpr (S::PASSES > 1 && X::ROWS_AT_ONCE) rows.ask(work, 0, warp, lane);
#pragma unroll 1
    for (int pass = 0; pass < S::PASSES; ++pass) {
      if constexpr (S::PASSES > 1 && X::ROWS_AT_ONCE) {
        // What the next pass needs is on its way while this one's is multiplied.
        rows.take(work, pass, own, warp, lane);
        if (pass + 1 < S::PASSES) rows.ask(work, pass + 1, warp, lane);
        if (pass == 0 && lane == 0) mark(work, Mark::ready_data);
      } else if constexpr (S::PASSES > 1) {
        square += X::read_x(work, pass, own, warp, lane);
        if (pass == 0 && lane == 0) mark(work, Mark::ready_data);
      }
      const int parts = least(PP, B::PARTS - pass * PP);
      Columns held[HOLDS ? PP : 1];
      if constexpr (HOLDS) {
#pragma unroll
        for (int p = 0; p < PP; ++p) held[p].read(own, p, lane);
      }
      // As plain as can be: fetching a stage's weights while another is multiplied, or putting sums away
      // a stage later, is slower (a third more cycles a stage).
#pragma unroll 1
      for (int jg = 0; jg < J * groups; ++jg) {
        const int j = J == 1 || jg < groups ? 0 : jg / groups, g = jg - j * groups;
        PackedSum sum = {};
        const auto stage = [&](const Columns& x) {
          Weights weights;
          weights.read(role);
          x.multiply(weights.block, warp, sum);
          role.release_stage();
        };
        if constexpr (HOLDS) {
#pragma unroll
          for (int p = 0; p < PP; ++p) stage(held[p]);
        } else {
#pragma unroll 1
          for (int p = 0; p < parts; ++p) {
            Columns x;
            x.read(own, p, lane);
            stage(x);
          }
        }
        if constexpr (NORM && T == 1) {
          if (jg == 0 && pass == S::PASSES - 1) square = warp_join<Add>(square);
        }
        Columns::put(partial, warp, lane, j, g, pass > 0, sum);
      }
    }
    if constexpr (NORM) {
      float* squares = S::squares_in(partial) + warp * T;
      if constexpr (T == 1) {
        if (lane == 0) squares[0] = square;
      } else {
        __syncwarp();
        if (lane < T) squares[lane] = S::squares_of(own)[lane];
      }
    }
  }

  // The same, with x straight to registers.
  template <class C>
  static __device__ __forceinline__ void task(C& role, const Work& work, float* partial, Held& x) {
    const int groups = S::groups_of(work), lane = role.lane, warp = role.warp;
    if constexpr (S::PASSES > 1) x.ask(work, 0, warp, lane);
#pragma unroll 1
    for (int pass = 0; pass < S::PASSES; ++pass) {
      if constexpr (S::PASSES > 1) {
        // What the next pass needs is on its way while this one's is multiplied.
        x.take(work, pass, warp, lane);
        if (pass + 1 < S::PASSES) x.ask(work, pass + 1, warp, lane);
        if (pass == 0 && lane == 0) mark(work, Mark::ready_data);
      }
#pragma unroll 1
      for (int jg = 0; jg < J * groups; ++jg) {
        const int j = J == 1 || jg < groups ? 0 : jg / groups, g = jg - j * groups;
        PackedSum sum = {};
#pragma unroll
        for (int p = 0; p < PP; ++p) {
          Weights weights;
          weights.read(role);
          x.part[p].multiply(weights.block, warp, sum);
          role.release_stage();
        }
        Columns::put(partial, warp, lane, j, g, pass > 0, sum);
      }
    }
    if constexpr (NORM) {
      float* squares = S::squares_in(partial) + warp * T;
      x.put_squares(squares, lane);
    }
  }

  // This task and those after it that use the same x.
  template <class C>
  static __device__ __forceinline__ void compute(C& role) {
    const int family = role.work().family, step = role.work().step;
    if (!role.wait_ready()) return;
    if constexpr (!B::polls) role.wait_published();
    PackedSums<B> sums;
    const int first_sum = 32 * role.warp + role.lane;
    sums.ask(role.work(), first_sum);
    typename Either<S::STRAIGHT, Held, float>::type square{};
    if constexpr (S::STRAIGHT && S::PASSES == 1) {
      square.ask(role.work(), 0, role.warp, role.lane);
      square.take(role.work(), 0, role.warp, role.lane);
      if (role.lane == 0) mark(role.work(), Mark::ready_data);
    } else if constexpr (S::PASSES == 1) {
      square = X::read_x(role.work(), 0, role.own_scratch(), role.warp, role.lane);
      if (role.lane == 0) mark(role.work(), Mark::ready_data);
    }
    for (;;) {
      float* const partial = role.partial();
      task(role, role.work(), partial, square);
      compute_sync();
      sums.join(role.work(), partial, first_sum);
      role.hand_over();
      role.finish_task();
      role.wait_filled();
      const Work& next = role.work();
      if (S::PASSES > 1 || !B::same_x || next.body < 0 || next.family != family || next.step != step)
        return;
      if (!role.wait_ready()) return;
      sums.ask(role.work(), first_sum);
    }
  }

  // ---- publisher ----

  template <class R>
  static __device__ __forceinline__ void publish(R& role, const Work& work) {
    const float* const partial = role.wait_partial();
    if constexpr (best_of<B> > 0) PackedSums<B>::keep(work, partial, role.lane);
    role.published(work);
  }
};

}  // namespace mpk
