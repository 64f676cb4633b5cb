// How a warp's part of x comes into its shared memory.
#pragma once
#include "mma.cuh"
#include "packed_shape.cuh"
#include "reduce.cuh"
#include "tagged.cuh"

namespace mpk {

template <class B>
struct PackedRows {
  using S = PackedShape<B>;
  using prologue = typename B::prologue;
  static constexpr int T = B::T, BW = S::BW, PP = S::PP;
  static constexpr int EACH = S::EACH, LANE_REQUESTS = S::LANE_REQUESTS, WORDS = S::WORDS;
  static constexpr bool NORM = S::NORM;

  static __device__ __forceinline__ int column_of(int request, int pass, int warp) {
    return S::column_of(request, pass, warp);
  }
  static __device__ __forceinline__ float* squares_of(char* own) { return S::squares_of(own); }

  // Whether x is bf16 pairs for the product already.
  static constexpr bool AS_IT_IS = S::IS_HALVES && !NORM && !S::LOW;

  // A warp's part of x, an operand as it is, on its way to the warp's shared memory. Of several tokens
  // TOGETHER are asked for at once, the last first, for who writes begins with the first; as soon
  // as one is converted the registers of its words serve for another.
  static constexpr int TOGETHER = most(1, least(T, WORDS_TOGETHER / WORDS));
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
        if constexpr (S::PAUSE > 0) __nanosleep(S::PAUSE);
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
          const int request = 32 * (i % LANE_REQUESTS) + lane;
          char* const place = own + token(last, i) * S::ROW + request * (S::BLOCK_X / S::ROW_REQUESTS);
          if constexpr (AS_IT_IS) {
            put(place, fetched[i]);
          } else {
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
            put(place, v);
          }
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

  // Whether Rows brings it.
  static constexpr bool ROWS_AT_ONCE = (T > 1 || AS_IT_IS) && prologue::direct && !S::STRAIGHT;

  static constexpr int TOKENS = most(1, least(T, 48 / WORDS));  // fetched at once

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
        await_all<EACH>(work, address, exists, fetched, S::PAUSE);
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
  static __device__ __forceinline__ void put(char* place, const Fetched<Brief<bf16>, 8>& x) {
    *reinterpret_cast<uint4*>(place) = make_uint4(x.pair(0), x.pair(2), x.pair(4), x.pair(6));
  }
  static __device__ __forceinline__ void put(char* place, const float (&v)[EACH]) {
    u32 high[EACH / 2];
#pragma unroll
    for (int e = 0; e < EACH; e += 2) high[e / 2] = bf16_pair(v[e], v[e + 1]);
    if constexpr (S::LOW) {
      const auto low = [&](int e) {
        return bf16_pair(v[e] - low_of(high[e / 2]), v[e + 1] - high_of(high[e / 2]));
      };
#pragma unroll
      for (int e = 0; e < EACH; e += 4)
        reinterpret_cast<uint4*>(place)[e / 4] =
            make_uint4(high[e / 2], high[e / 2 + 1], low(e), low(e + 2));
    } else if constexpr (EACH == 8) {
      *reinterpret_cast<uint4*>(place) = make_uint4(high[0], high[1], high[2], high[3]);
    } else {
      *reinterpret_cast<uint2*>(place) = make_uint2(high[0], high[1]);
    }
  }
};

}  // namespace mpk
