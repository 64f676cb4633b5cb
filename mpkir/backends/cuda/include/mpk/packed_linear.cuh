// The product on tensor cores, over weights packed in the order in which they are used.
//
// A packed weight [N, K] lies as [N/8][K/32][8][32]: blocks of 8 rows by 32 columns, 512 bytes. A
// stage of the ring is 8 rows by K / PARTS columns, one copy. A lane's 16 bytes of a block are 8
// neighbours of a row, which serve as two B fragments of mma.m16n8k16; the columns of x are taken
// in the same order, so that 16 bytes of x are two A fragments. The 16 rows of A are the tokens; up
// to 8 tokens leave the rows 8 to 15 for what rounding x to bf16 lost, so x counts as 16 bits more
// (of several tokens only if that fits).
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
//   };
#pragma once
#include "linear_direct.cuh"
#include "mma.cuh"
#include "reduce.cuh"
#include "runtime.cuh"
#include "tagged.cuh"

#ifndef MPK_TOGETHER
#define MPK_TOGETHER 32
#endif
#ifndef MPK_BATCH_PAUSE
#define MPK_BATCH_PAUSE PAUSE
#endif

namespace mpk {

// Of two bf16 in a word.
__device__ __forceinline__ float low_of(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

constexpr int ROW_GROUP = 8;      // features of a block
constexpr int BLOCK_COLUMNS = 32;
constexpr int BLOCK_BYTES = 512;
constexpr int POLLED_FREELY = 16384;  // bytes of x; more is polled every so many nanoseconds
constexpr int POLL_PAUSE = 200;
constexpr int X_LIMIT = 49152;    // shared memory that x may take, half more with more than 8 tokens:
                                  // more comes in passes, and again for each task

template <class B>
struct PackedShape {
  using prologue = typename B::prologue;
  static constexpr int T = B::T, PARTS = B::PARTS;
  static constexpr int COLUMNS = B::K / PARTS;              // of a stage
  static constexpr int BLOCKS = COLUMNS / BLOCK_COLUMNS;    // of a stage
  static constexpr int BW = ceil_div(BLOCKS, COMPUTE_WARPS);  // of them, a warp's
  static constexpr int GROUPS = ceil_div(B::ROWS, ROW_GROUP);
  // x of a warp: rows of so many bytes, of odd multiples of 64 so that two rows use all banks. Words
  // of two elements; with LOW each is followed by the word of what they lost, as a fragment has it.
  static constexpr int row_bytes(int parts, int block) {
    const int bytes = parts * BW * block;
    return T > 1 && bytes % 128 == 0 ? bytes + 64 : bytes;
  }
  static constexpr int x_bytes(int parts, int block) { return COMPUTE_WARPS * T * row_bytes(parts, block); }
  static constexpr int LIMIT = T <= 8 ? X_LIMIT : X_LIMIT / 2 * 3;
  // Rows 8 to 15 hold the lost bits: of two tokens only where x comes in one pass all the same, and not
  // of more, whose x would fill registers and memory that weights need.
  static constexpr bool LOW = !prologue::exact && T <= 2 && (T == 1 || x_bytes(PARTS, 128) <= LIMIT);
  static constexpr int BLOCK_X = LOW ? 128 : 64;
  // Whether the lanes that multiply x fetch it themselves, into registers: of many tokens, in words of
  // 4 bytes. All of a row if that fits, else what leaves room for the words of the pass that follows.
#ifdef MPK_THROUGH_MEMORY
  static constexpr bool STRAIGHT = false;
#else
  static constexpr bool STRAIGHT = T > 4 && prologue::direct && sizeof(typename prologue::X) == 4;
#endif
  static constexpr int HELD = BW * (T > 8 ? 8 : 4);  // registers of a part
  static constexpr int parts_held() {
    int parts = PARTS * HELD <= 64 ? PARTS : most(1, 32 / HELD);
    while (PARTS % parts != 0) --parts;
    return parts;
  }
  static constexpr int parts_at_once() {
    if (STRAIGHT) return parts_held();
    int parts = PARTS;
    while (parts > 1 && x_bytes(parts, BLOCK_X) > LIMIT) --parts;
    return parts;
  }
  static constexpr int PP = parts_at_once();  // parts of a pass
  static constexpr int PASSES = ceil_div(PARTS, PP);
  static constexpr int ROW = row_bytes(PP, BLOCK_X);
  static constexpr int X = STRAIGHT ? 0 : x_bytes(PP, BLOCK_X) / COMPUTE_WARPS;  // bytes of a warp
  static constexpr int SQUARES = COMPUTE_WARPS * T;      // a sum for each warp and token
  // Sums of a token, in floats: of several, odd multiples of 8, so that all banks serve a warp's.
  static constexpr int SUMS = T > 1 && B::J * B::ROWS % 16 == 0 ? B::J * B::ROWS + 8 : B::J * B::ROWS;
  static constexpr int PARTIAL = (COMPUTE_WARPS * T * SUMS + SQUARES) * 4;
  static_assert(T <= 16, "the tokens are the rows of one fragment");
  static_assert(B::K % (PARTS * BLOCK_COLUMNS) == 0 && B::N % ROW_GROUP == 0, "whole blocks");
  static_assert(B::ROWS % ROW_GROUP == 0 && ROW_GROUP * COLUMNS * 2 <= SLOT, "a stage fits a slot");
  static_assert(prologue::norm != Norm::layer, "the factor is the only thing a norm may leave over");
};

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
  using prologue = typename B::prologue;
  static constexpr bool streams = true;
  static constexpr int T = B::T, ROWS = B::ROWS, J = B::J, BW = S::BW, PP = S::PP;
  static constexpr bool NORM = prologue::norm != Norm::none;
  static constexpr int scratch_bytes = COMPUTE_WARPS * (S::X + 16 * ceil_div(T, 4));
  static constexpr int partial_bytes = S::PARTIAL;

  static __device__ __forceinline__ int groups_of(const Work& work) {
    if constexpr (B::N % ROWS == 0) return S::GROUPS;
    return least(S::GROUPS, (B::N - B::first_row(work.index)) / ROW_GROUP);
  }

  // ---- loader ----

  template <class L>
  static __device__ __forceinline__ bool load(L& loader, const Work& work) {
    constexpr int STAGE = ROW_GROUP * S::COLUMNS * 2;
    const int groups = groups_of(work);
    const i64 first = i64(B::first_row(work.index)) * (B::K * 2);
#pragma unroll 1
    for (int pass = 0; pass < S::PASSES; ++pass) {
      const int parts = least(PP, B::PARTS - pass * PP);
#pragma unroll 1
      for (int j = 0; j < J; ++j) {
        const char* source = work.at<char>(B::weight(j)) + first + pass * (PP * STAGE);
#pragma unroll 1
        for (int g = 0; g < groups; ++g)
#pragma unroll 1
          for (int p = 0; p < parts; ++p)
            if (!loader.issue(source + (g * B::PARTS + p) * i64(STAGE), STAGE)) return false;
      }
    }
    return true;
  }

  // ---- compute ----

  // Behind a warp's x: its sums of squares.
  static __device__ __forceinline__ float* squares_of(char* own) {
    return reinterpret_cast<float*>(own + S::X);
  }

  static constexpr int EACH = 4;                                // elements of x in a lane's request
  static constexpr int REQUESTS = PP * BW * (BLOCK_COLUMNS / EACH);  // of a warp, for one token
  static constexpr int LANE_REQUESTS = ceil_div(REQUESTS, 32);
  static constexpr int WORDS = LANE_REQUESTS * EACH * int(sizeof(typename prologue::X)) / 4;
  static constexpr int TOKENS = most(1, least(T, 48 / WORDS));  // fetched at once

  // What a worker polls of long rows would slow the weights' stream, which has the time then.
  static constexpr int PAUSE =
      T * B::K * int(sizeof(typename prologue::X)) < POLLED_FREELY ? 0 : POLL_PAUSE;

  // The first column of a lane's request, in a pass; -1: there is none.
  static __device__ __forceinline__ int column_of(int request, int pass, int warp) {
    const int part = request / (BW * 8), within = warp * (BW * 32) + request % (BW * 8) * EACH;
    const bool exists = (REQUESTS % 32 == 0 || request < REQUESTS) &&
                        (S::BLOCKS % COMPUTE_WARPS == 0 || within < S::COLUMNS) &&
                        (B::PARTS % PP == 0 || pass * PP + part < B::PARTS);
    return exists ? (pass * PP + part) * S::COLUMNS + within : -1;
  }

  // A warp's part of x of several tokens, an operand as it is, on its way to the warp's shared memory.
  // TOGETHER tokens are asked for at once, the last first, for publishers begin with the first; as soon
  // as one is converted the registers of its words serve for another.
  static constexpr int TOGETHER = most(1, least(T, MPK_TOGETHER / WORDS));
  struct Rows {
    static constexpr int COUNT = TOGETHER * LANE_REQUESTS;
    using Words = Fetched<typename prologue::X, EACH>;
    Words fetched[COUNT];

    static __device__ __forceinline__ int token(int last, int i) { return most(0, last - i / LANE_REQUESTS); }
    static __device__ __forceinline__ int column(int i, int pass, int warp, int lane) {
      return column_of(32 * (i % LANE_REQUESTS) + lane, pass, warp);
    }
    static __device__ __forceinline__ bool exists(int last, int i, int column) {
      return (T % TOGETHER == 0 || last - i / LANE_REQUESTS >= 0) && column >= 0;
    }
    __device__ __forceinline__ void ask(const Work& work, int i, int last, int pass, int warp, int lane) {
      const int k = column(i, pass, warp, lane);
      if (exists(last, i, k)) fetched[i].request(prologue::x(work, token(last, i), k));
    }
    // The first of them.
    __device__ __forceinline__ void ask(const Work& work, int pass, int warp, int lane) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) ask(work, i, T - 1, pass, warp, lane);
    }
    __device__ __forceinline__ bool arrived(const Work& work, int i, int last, int pass, int warp,
                                            int lane) const {
      return !exists(last, i, column(i, pass, warp, lane)) || fetched[i].arrived(work.tag);
    }
    // Until what has been asked for is there.
    __device__ __forceinline__ void await(const Work& work, int last, int pass, int warp, int lane) {
      for (u32 polls = 1;; ++polls) {
        bool all = true;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) all &= arrived(work, i, last, pass, warp, lane);
        if (all || gives_up(work, polls)) return;
        if constexpr (MPK_BATCH_PAUSE > 0) __nanosleep(MPK_BATCH_PAUSE);
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
          if (!arrived(work, i, last, pass, warp, lane)) ask(work, i, last, pass, warp, lane);
      }
    }
    // All of them, times the norm's weights, and the sums of their squares.
    __device__ __forceinline__ void take(const Work& work, int pass, char* own, int warp, int lane) {
      float scale[LANE_REQUESTS][EACH];
      if constexpr (NORM) {
#pragma unroll
        for (int i = 0; i < LANE_REQUESTS; ++i) {
          const int k = column(i, pass, warp, lane);
          if (k >= 0) prologue::template scale<EACH>(work, k, scale[i]);
        }
      }
      __syncwarp();  // nobody of this warp still reads the x before
#pragma unroll 1
      for (int last = T - 1; last >= 0; last -= TOGETHER) {
        await(work, last, pass, warp, lane);
        float sum[TOGETHER] = {};
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
          if (!exists(last, i, column(i, pass, warp, lane))) continue;
          float v[EACH];
#pragma unroll
          for (int e = 0; e < EACH; ++e) v[e] = fetched[i].get(e);
          if constexpr (NORM) {
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
              sum[i / LANE_REQUESTS] = fmaf(v[e], v[e], sum[i / LANE_REQUESTS]);
              v[e] *= scale[i % LANE_REQUESTS][e];
            }
          }
          const int request = 32 * (i % LANE_REQUESTS) + lane;
          put(own + token(last, i) * S::ROW + request * (S::BLOCK_X / (BLOCK_COLUMNS / EACH)), v);
          if (token(last, i) >= TOGETHER) ask(work, i, last - TOGETHER, pass, warp, lane);
        }
        if constexpr (NORM) {
          float* squares = squares_of(own);
#pragma unroll
          for (int t = 0; t < TOGETHER; ++t) sum[t] = warp_join<Add>(sum[t]);
#pragma unroll
          for (int t = 0; t < TOGETHER; ++t)
            if (lane == 0 && (T % TOGETHER == 0 || last >= t))
              squares[last - t] = pass == 0 ? sum[t] : squares[last - t] + sum[t];
        }
      }
      __syncwarp();
    }
  };

  static constexpr bool ROWS_AT_ONCE = T > 1 && prologue::direct && !S::STRAIGHT;

  // Fetches a warp's part of x, times the norm's weights, into its shared memory. With one token the
  // result is the lane's part of the sum of squares, which nobody needs before the product.
  static __device__ __forceinline__ float read_x(const Work& work, int pass, char* own, int warp,
                                                int lane) {
    if constexpr (ROWS_AT_ONCE) {
      Rows rows;
      rows.ask(work, pass, warp, lane);
      rows.take(work, pass, own, warp, lane);
      return 0.0f;
    }
    char* rows = own;
    float* squares = squares_of(own);
    float square = 0.0f;
    float scale[LANE_REQUESTS][EACH];
    if constexpr (NORM) {
#pragma unroll
      for (int i = 0; i < LANE_REQUESTS; ++i) {
        const int k = column_of(32 * i + lane, pass, warp);
        if (k >= 0) prologue::template scale<EACH>(work, k, scale[i]);
      }
    }
    __syncwarp();  // nobody of this warp still reads the x before
#pragma unroll 1
    for (int first = 0; first < T; first += TOKENS) {
      float x[TOKENS * LANE_REQUESTS][EACH];
      if constexpr (prologue::direct) {
        Fetched<typename prologue::X, EACH> fetched[TOKENS * LANE_REQUESTS];
        const auto address = [&](int i) {
          return prologue::x(work, least(first + i / LANE_REQUESTS, T - 1),
                             column_of(32 * (i % LANE_REQUESTS) + lane, pass, warp));
        };
        const auto exists = [&](int i) {
          return first + i / LANE_REQUESTS < T &&
                 column_of(32 * (i % LANE_REQUESTS) + lane, pass, warp) >= 0;
        };
        await_all<EACH>(work, address, exists, fetched, PAUSE);
#pragma unroll
        for (int i = 0; i < TOKENS * LANE_REQUESTS; ++i)
#pragma unroll
          for (int e = 0; e < EACH; ++e) x[i][e] = fetched[i].get(e);
      } else {
#pragma unroll
        for (int i = 0; i < TOKENS * LANE_REQUESTS; ++i) {
          const int k = column_of(32 * (i % LANE_REQUESTS) + lane, pass, warp);
          if (k >= 0)
            prologue::template load<EACH>(work, least(first + i / LANE_REQUESTS, T - 1), k, x[i]);
        }
      }
#pragma unroll
      for (int t = 0; t < TOKENS; ++t) {
        if (T % TOKENS != 0 && first + t >= T) break;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_REQUESTS; ++i) {
          const int request = 32 * i + lane;
          if (column_of(request, pass, warp) < 0) continue;
          float(&v)[EACH] = x[t * LANE_REQUESTS + i];
          if constexpr (NORM) {
#pragma unroll
            for (int e = 0; e < EACH; ++e) sum = fmaf(v[e], v[e], sum), v[e] *= scale[i][e];
          }
          put(rows + (first + t) * S::ROW + request * (S::BLOCK_X / (BLOCK_COLUMNS / EACH)), v);
        }
        if constexpr (NORM && T == 1) {
          square = sum;
        } else if constexpr (NORM) {
          sum = warp_join<Add>(sum);
          if (lane == 0) squares[first + t] = pass == 0 ? sum : squares[first + t] + sum;
        }
      }
    }
    __syncwarp();
    return square;
  }
  static __device__ __forceinline__ void put(char* place, const float (&v)[EACH]) {
    const u32 a = bf16_pair(v[0], v[1]), b = bf16_pair(v[2], v[3]);
    if constexpr (S::LOW) {
      *reinterpret_cast<uint4*>(place) =
          make_uint4(a, bf16_pair(v[0] - low_of(a), v[1] - high_of(a)), b,
                     bf16_pair(v[2] - low_of(b), v[3] - high_of(b)));
    } else {
      *reinterpret_cast<uint2*>(place) = make_uint2(a, b);
    }
  }

  static constexpr int CHAINS = 4;  // independent sums, so that products need not wait for each other

  // A warp's columns of a part of x as fragments: the tokens' rows, and what rows 8 to 15 hold (with
  // LOW both are in one vector, 4 columns each). Rows that no token has are nothing, and not read:
  // shared memory's bandwidth is what a product takes.
  static constexpr bool TWO = S::LOW || T > 8;
  struct Columns {
    uint4 first[BW], second[TWO ? BW : 1];

    __device__ __forceinline__ void read(const char* own, int part, int lane) {
      const char* x = own + part * (BW * S::BLOCK_X) + lane % 4 * (S::BLOCK_X / 4);
      const int row = lane / 4;
#pragma unroll
      for (int b = 0; b < BW; ++b) {
        first[b] = read_vector(x + row * S::ROW + b * S::BLOCK_X, row < T);
        if constexpr (S::LOW)
          second[b] = read_vector(x + row * S::ROW + b * S::BLOCK_X + 16, row < T);
        else if constexpr (T > 8)
          second[b] = read_vector(x + (row + 8) * S::ROW + b * S::BLOCK_X, row + 8 < T);
      }
    }
    static __device__ __forceinline__ uint4 read_vector(const char* place, bool exists) {
      return exists ? *reinterpret_cast<const uint4*>(place) : make_uint4(0, 0, 0, 0);
    }
  };
  // Whether x stays in registers, for all stages.
  static constexpr bool HOLDS = B::PARTS % PP == 0 && PP * BW * (TWO ? 8 : 4) <= 64;

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

  static __device__ __forceinline__ void multiply(const Weights& weights, const Columns& x, int warp,
                                                  float (&sum)[CHAINS][4]) {
#pragma unroll
    for (int b = 0; b < BW; ++b) {
      if (S::BLOCKS % COMPUTE_WARPS != 0 && warp * BW + b >= S::BLOCKS) break;
      const uint4 w = weights.block[b], v = x.first[b];
      float(&even)[4] = sum[2 * b % CHAINS], (&odd)[4] = sum[(2 * b + 1) % CHAINS];
      if constexpr (S::LOW) {
        const uint4 u = x.second[b];
        add_product(even, v.x, v.y, v.z, v.w, w.x, w.y);
        add_product(odd, u.x, u.y, u.z, u.w, w.z, w.w);
      } else {
        const uint4 u = T > 8 ? x.second[TWO ? b : 0] : make_uint4(0, 0, 0, 0);
        add_product(even, v.x, u.x, v.y, u.y, w.x, w.y);
        add_product(odd, v.z, u.z, v.w, u.w, w.z, w.w);
      }
    }
  }

  // Where the sum of (t, j, row) over a warp's columns goes.
  static __device__ __forceinline__ float& cell(float* partial, int warp, int t, int j, int row) {
    if constexpr (T == 1) return partial[((warp * T + t) * J + j) * ROWS + row];
    return partial[(warp * T + t) * S::SUMS + j * ROWS + row];
  }
  static __device__ __forceinline__ void put_sums(float* partial, int warp, int t, int j, int row,
                                                  bool add, float a, float b) {
    if (t >= T) return;
    float2* place = reinterpret_cast<float2*>(&cell(partial, warp, t, j, row));
    if (add) a += place->x, b += place->y;
    *place = make_float2(a, b);
  }

  // `square`: with one token, this lane's part of the sum of squares.
  template <class C>
  static __device__ __forceinline__ void task(C& role, const Work& work, float square) {
    float* partial = role.partial();
    const int groups = groups_of(work), lane = role.lane, warp = role.warp;
    char* const own = role.own_scratch();
    Rows rows;
    if constexpr (S::PASSES > 1 && ROWS_AT_ONCE) rows.ask(work, 0, warp, lane);
#pragma unroll 1
    for (int pass = 0; pass < S::PASSES; ++pass) {
      if constexpr (S::PASSES > 1 && ROWS_AT_ONCE) {
        // What the next pass needs is on its way while this one's is multiplied.
        rows.take(work, pass, own, warp, lane);
        if (pass + 1 < S::PASSES) rows.ask(work, pass + 1, warp, lane);
        if (pass == 0 && lane == 0) mark(work, Mark::ready_data);
      } else if constexpr (S::PASSES > 1) {
        square += read_x(work, pass, own, warp, lane);
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
        float sum[CHAINS][4] = {};
        const auto stage = [&](const Columns& x) {
          Weights weights;
          weights.read(role);
          multiply(weights, x, warp, sum);
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
        float total[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) total[i] = sum[0][i] + sum[1][i] + (sum[2][i] + sum[3][i]);
        const int t = lane / 4, row = g * ROW_GROUP + lane % 4 * 2;
        if constexpr (S::LOW) total[0] += total[2], total[1] += total[3];
        put_sums(partial, warp, t, j, row, pass > 0, total[0], total[1]);
        if constexpr (T > 8) put_sums(partial, warp, t + 8, j, row, pass > 0, total[2], total[3]);
      }
    }
    if constexpr (NORM) {
      float* squares = partial + COMPUTE_WARPS * T * S::SUMS + warp * T;
      if constexpr (T == 1) {
        if (lane == 0) squares[0] = square;
      } else {
        __syncwarp();
        if (lane < T) squares[lane] = squares_of(own)[lane];
      }
    }
  }

  // ---- compute, with x straight to registers ----

  // A lane's columns of a block are 8 of its token (and of the one 8 further on), 32 bytes. Two lanes
  // together ask for those of one, then for those of the other, so that no sector of memory is asked
  // for twice, and swap what they have of each other's.
  struct Held {
    static constexpr int TOKENS = T > 8 ? 2 : 1;  // of a lane
    static constexpr int COUNT = PP * BW * TOKENS, AT_ONCE = least(COUNT, most(1, MPK_TOGETHER / 8));
    Columns part[PP];
    Fetched<typename prologue::X, 4> half[AT_ONCE][2];
    float square[TOKENS];

    static __device__ __forceinline__ int token(int i, int lane) { return lane / 4 + 8 * (i % TOKENS); }
    static __device__ __forceinline__ bool exists(int i, int warp, int lane) {
      const int block = warp * BW + i / TOKENS % BW;
      return (S::BLOCKS % COMPUTE_WARPS == 0 || block < S::BLOCKS) && (T % 8 == 0 || token(i, lane) < T);
    }
    // The first column in a pass, and how many blocks on i is.
    static __device__ __forceinline__ int origin(int pass, int warp, int lane) {
      return pass * (PP * S::COLUMNS) + warp * (BW * BLOCK_COLUMNS) + lane % 4 / 2 * 16 + lane % 2 * 4;
    }
    static constexpr __device__ int blocks_on(int i) {
      return i / TOKENS / BW * S::BLOCKS + i / TOKENS % BW;
    }
    static __device__ __forceinline__ int column(int i, int h, int pass, int warp, int lane) {
      return origin(pass, warp, lane) + blocks_on(i) * BLOCK_COLUMNS + h * 8;
    }
    // One address and constants: what lies apart does so in parts of blocks, but compilers see that not.
    __device__ __forceinline__ void ask_half(const Work& work, int i, int h, int pass, int warp, int lane) {
      const auto* row = prologue::x(work, 0, 0);
      const i64 block = prologue::x(work, 0, BLOCK_COLUMNS) - row, eight = prologue::x(work, 0, 8) - row;
      half[i % AT_ONCE][h].request(prologue::x(work, token(i, lane), origin(pass, warp, lane)) +
                                   (blocks_on(i) * block + h * eight));
    }
    __device__ __forceinline__ void ask(const Work& work, int i, int pass, int warp, int lane) {
      if (!exists(i, warp, lane)) return;
#pragma unroll
      for (int h = 0; h < 2; ++h) ask_half(work, i, h, pass, warp, lane);
    }
    // The first of a pass.
    __device__ __forceinline__ void ask(const Work& work, int pass, int warp, int lane) {
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) ask(work, i, pass, warp, lane);
    }
    // Until those from `first` on are there.
    __device__ __forceinline__ void await(const Work& work, int first, int pass, int warp, int lane) {
      const auto there = [&](int i, int h) {
        return i >= COUNT || !exists(i, warp, lane) || half[i % AT_ONCE][h].arrived(work.tag);
      };
      for (u32 polls = 1;; ++polls) {
        bool all = true;
#pragma unroll
        for (int i = first; i < first + AT_ONCE; ++i) all &= there(i, 0) && there(i, 1);
        if (all || gives_up(work, polls)) break;
        if constexpr (MPK_BATCH_PAUSE > 0) __nanosleep(MPK_BATCH_PAUSE);
#pragma unroll
        for (int i = first; i < first + AT_ONCE; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            if (!there(i, h)) ask_half(work, i, h, pass, warp, lane);
      }
      __syncwarp();
    }
    // What has come, times the norm's weights, to its place.
    __device__ __forceinline__ void keep(int i, const float (&scale)[2][4], int warp, int lane) {
      u32 word[2][2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          v[e] = exists(i, warp, lane) ? half[i % AT_ONCE][h].get(e) : 0.0f;
          if constexpr (NORM) {
            square[i % TOKENS] = fmaf(v[e], v[e], square[i % TOKENS]);
            v[e] *= scale[h][e];
          }
        }
        word[h][0] = bf16_pair(v[0], v[1]), word[h][1] = bf16_pair(v[2], v[3]);
      }
      const bool odd = lane % 2 != 0;
      const u32 a = __shfl_xor_sync(0xffffffffu, odd ? word[0][0] : word[1][0], 1);
      const u32 b = __shfl_xor_sync(0xffffffffu, odd ? word[0][1] : word[1][1], 1);
      const uint4 all = odd ? make_uint4(a, b, word[1][0], word[1][1])
                            : make_uint4(word[0][0], word[0][1], a, b);
      Columns& columns = part[i / TOKENS / BW];
      if (i % TOKENS == 0) columns.first[i / TOKENS % BW] = all;
      else columns.second[TWO ? i / TOKENS % BW : 0] = all;
    }
    // All of a pass, behind ask.
    __device__ __forceinline__ void take(const Work& work, int pass, int warp, int lane) {
      if (pass == 0) {
#pragma unroll
        for (int t = 0; t < TOKENS; ++t) square[t] = 0.0f;
      }
#pragma unroll
      for (int first = 0; first < COUNT; first += AT_ONCE) {
        float scale[AT_ONCE][2][4];
        if constexpr (NORM) {
#pragma unroll
          for (int i = first; i < least(first + AT_ONCE, COUNT); ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h)
              if (exists(i, warp, lane))
                prologue::template scale<4>(work, column(i, h, pass, warp, lane), scale[i - first][h]);
        }
        await(work, first, pass, warp, lane);
#pragma unroll
        for (int i = first; i < least(first + AT_ONCE, COUNT); ++i) {
          keep(i, scale[i - first], warp, lane);
          if (i + AT_ONCE < COUNT) ask(work, i + AT_ONCE, pass, warp, lane);
        }
      }
    }
  };

  template <class C>
  static __device__ __forceinline__ void task(C& role, const Work& work, Held& x) {
    float* partial = role.partial();
    const int groups = groups_of(work), lane = role.lane, warp = role.warp;
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
        float sum[CHAINS][4] = {};
#pragma unroll
        for (int p = 0; p < PP; ++p) {
          Weights weights;
          weights.read(role);
          multiply(weights, x.part[p], warp, sum);
          role.release_stage();
        }
        float total[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) total[i] = sum[0][i] + sum[1][i] + (sum[2][i] + sum[3][i]);
        const int t = lane / 4, row = g * ROW_GROUP + lane % 4 * 2;
        put_sums(partial, warp, t, j, row, pass > 0, total[0], total[1]);
        if constexpr (T > 8) put_sums(partial, warp, t + 8, j, row, pass > 0, total[2], total[3]);
      }
    }
    if constexpr (NORM) {
      float* squares = partial + COMPUTE_WARPS * T * S::SUMS + warp * T;
#pragma unroll
      for (int i = 0; i < Held::TOKENS; ++i) {
        float sum = x.square[i];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const int t = Held::token(i, lane);
        if (lane % 4 == 0 && t < T) squares[t] = sum;
      }
    }
  }

  // This task and those after it that use the same x.
  template <class C>
  static __device__ __forceinline__ void compute(C& role) {
    const int family = role.work().family, step = role.work().step;
    if (!role.wait_ready()) return;
    if constexpr (!B::polls) role.wait_published();
    typename Either<S::STRAIGHT, Held, float>::type square{};
    u32 data_at = 0;  // in a trace, of the first task
    if constexpr (S::STRAIGHT && S::PASSES == 1) {
      square.ask(role.work(), 0, role.warp, role.lane);
      square.take(role.work(), 0, role.warp, role.lane);
      data_at = trace_clock();
    } else if constexpr (S::PASSES == 1) {
      square = read_x(role.work(), 0, role.own_scratch(), role.warp, role.lane);
      data_at = trace_clock();
    }
    for (;;) {
      task(role, role.work(), square);
      role.hand_over();
      if (role.lane == 0 && data_at != 0) mark(role.work(), Mark::ready_data, data_at);
      data_at = 0;
      role.finish_task();
      role.wait_filled();
      const Work& next = role.work();
      if (S::PASSES > 1 || !B::same_x || next.body < 0 || next.family != family || next.step != step)
        return;
      if (!role.wait_ready()) return;
    }
  }

  // ---- publisher ----

  // Of several tokens: each token's factor is made once, by a lane; sums of a few rounds are on their
  // way at once.
  template <class R>
  static __device__ __forceinline__ void publish_rows(R& role, const Work& work) {
    using epilogue = typename B::epilogue;
    using Inputs = typename epilogue::Inputs;
    constexpr int ROUNDS = ceil_div(T * ROWS, 32), AT_ONCE = least(ROUNDS, 4);
    constexpr bool NONE = __is_empty(Inputs), EARLY = !NONE && ROUNDS <= 8;
    const int rows = groups_of(work) * ROW_GROUP;
    const auto exists = [&](int at) { return at < T * ROWS && at % ROWS < rows; };
    Inputs early[EARLY ? ceil_div(ROUNDS, AT_ONCE) * AT_ONCE : 1];
    if constexpr (EARLY) {
#pragma unroll
      for (int i = 0; i < ROUNDS; ++i) {
        const int at = 32 * i + role.lane;
        if (exists(at)) early[i] = epilogue::load(work, at / ROWS, at % ROWS);
      }
    }
    float* partial = const_cast<float*>(role.wait_partial());
    float own_factor = 1.0f;
    if constexpr (NORM) {
      if (role.lane < T) {
        float squares = 0.0f;
#pragma unroll
        for (int w = 0; w < COMPUTE_WARPS; ++w)
          squares += partial[COMPUTE_WARPS * T * S::SUMS + w * T + role.lane];
        own_factor = rsqrtf(squares / B::K + prologue::eps);
      }
      __syncwarp();
    }
    const auto rounds = [&](int first, const Inputs* inputs) {
      float y[AT_ONCE][J];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int at = least(32 * (first + i) + role.lane, T * ROWS - 1);
        const float factor = NORM ? __shfl_sync(0xffffffffu, own_factor, at / ROWS) : 1.0f;
#pragma unroll
        for (int j = 0; j < J; ++j) {
          y[i][j] = 0.0f;
#pragma unroll
          for (int w = 0; w < COMPUTE_WARPS; ++w)
            y[i][j] += cell(partial, w, at / ROWS, j, at % ROWS);
          y[i][j] *= factor;
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int at = 32 * (first + i) + role.lane;
        if (exists(at)) epilogue::store(work, at / ROWS, at % ROWS, y[i], inputs[i]);
      }
    };
    if constexpr (EARLY) {
#pragma unroll
      for (int i = 0; i < ROUNDS; i += AT_ONCE) rounds(i, early + i);
    } else {
#pragma unroll 1
      for (int i = 0; i < ROUNDS; i += AT_ONCE) {
        Inputs inputs[AT_ONCE];
        if constexpr (!NONE) {
#pragma unroll
          for (int k = 0; k < AT_ONCE; ++k) {
            const int at = 32 * (i + k) + role.lane;
            if (exists(at)) inputs[k] = epilogue::load(work, at / ROWS, at % ROWS);
          }
        }
        rounds(i, inputs);
      }
    }
    role.published(work);
  }

  template <class R>
  static __device__ __forceinline__ void publish(R& role, const Work& work) {
    if constexpr (T > 1) return publish_rows(role, work);
    using epilogue = typename B::epilogue;
    using Inputs = typename epilogue::Inputs;
    constexpr int ROUNDS = ceil_div(T * ROWS, 32);
    constexpr bool EARLY = __is_empty(Inputs) || ROUNDS <= 8;
    const int rows = groups_of(work) * ROW_GROUP;
    // Other operands are fetched while the sums are being made.
    Inputs inputs[EARLY ? ROUNDS : 1];
    if constexpr (EARLY) {
#pragma unroll
      for (int i = 0; i < ROUNDS; ++i) {
        const int at = 32 * i + role.lane;
        if (at < T * ROWS && at % ROWS < rows) inputs[i] = epilogue::load(work, at / ROWS, at % ROWS);
      }
    }
    float* partial = const_cast<float*>(role.wait_partial());
    const auto finish = [&](int at, const Inputs& in) {
      const int t = at / ROWS, row = at % ROWS;
      float factor = 1.0f;
      if constexpr (NORM) {
        float squares = 0.0f;
#pragma unroll
        for (int w = 0; w < COMPUTE_WARPS; ++w)
          squares += partial[COMPUTE_WARPS * T * S::SUMS + w * T + t];
        factor = rsqrtf(squares / B::K + prologue::eps);
      }
      float y[J];
#pragma unroll
      for (int j = 0; j < J; ++j) {
        y[j] = 0.0f;
#pragma unroll
        for (int w = 0; w < COMPUTE_WARPS; ++w) y[j] += cell(partial, w, t, j, row);
        y[j] *= factor;
      }
      epilogue::store(work, t, row, y, in);
    };
    if constexpr (EARLY) {
#pragma unroll
      for (int i = 0; i < ROUNDS; ++i) {
        const int at = 32 * i + role.lane;
        if (at < T * ROWS && at % ROWS < rows) finish(at, inputs[i]);
      }
    } else {
#pragma unroll 1
      for (int at = role.lane; at < T * ROWS; at += 32)
        if (at % ROWS < rows) finish(at, epilogue::load(work, at / ROWS, at % ROWS));
    }
    role.published(work);
  }
};

}  // namespace mpk
