// A warp's columns of a part of x as fragments, and their product with a stage's blocks.
//
// A lane's 16 bytes of a block are 8 neighbours of a feature's row: pairs 0, 2, 1 and 3. Weights are the
// large operand of mma.m16n8k16, whose registers these words are as they were loaded, so that no product
// waits for moves: its rows 0 to 7 are the features on the first four columns, its rows 8 to 15 the same
// features on the other four. Of few tokens x has a column for either half, and two more
// for what rounding it to bf16 lost, so that one product takes the block; the quarters of the result in which
// features met the other half are nothing. Of up to 8 tokens each has a column, and a block takes a product
// for either half of x; half of each result is nothing. Of more tokens x is the large operand, a row for
// each token, and a block takes two products as well.
#pragma once
#include "mma.cuh"
#include "packed_shape.cuh"

namespace mpk {

constexpr int CHAINS = 4;  // independent sums, so that products need not wait for each other
using PackedSum = float[CHAINS][4];

template <class B>
struct FewTokens {
  using S = PackedShape<B>;
  static constexpr int T = B::T, BW = S::BW, LEVELS = S::LEVELS;
  static constexpr int REGISTERS = 2 * BW;
  static_assert(2 * LEVELS * T <= 8, "a column for each token, level and half of a lane's 8");
  uint2 x[BW];

  __device__ __forceinline__ void read(const char* own, int part, int lane) {
    const int column = lane / 4, t = column / (2 * LEVELS), half = column % 2, level = column / 2 % LEVELS;
    // As they were put: what four elements lost behind them, then the next four.
    const char* place = own + t * S::ROW + part * (BW * S::BLOCK_X) + lane % 4 * (S::BLOCK_X / 4) +
                        half * (8 * LEVELS) + level * 8;
#pragma unroll
    for (int b = 0; b < BW; ++b)
      x[b] = t < T ? *reinterpret_cast<const uint2*>(place + b * S::BLOCK_X) : make_uint2(0, 0);
  }
  __device__ __forceinline__ void multiply(const uint4 (&w)[BW], int warp, PackedSum& sum) const {
#pragma unroll
    for (int b = 0; b < BW; ++b) {
      if (S::BLOCKS % COMPUTE_WARPS != 0 && warp * BW + b >= S::BLOCKS) break;
      add_product(sum[b % CHAINS], w[b].x, w[b].y, w[b].z, w[b].w, x[b].x, x[b].y);
    }
  }
  static __device__ __forceinline__ void put(float* partial, int warp, int lane, int j, int g, bool add,
                                             const PackedSum& sum) {
    float total = (sum[0][0] + sum[1][0] + (sum[2][0] + sum[3][0])) +
                  (sum[0][3] + sum[1][3] + (sum[2][3] + sum[3][3]));
    const int t = lane % 4 / LEVELS, level = lane % LEVELS;
    if (t >= T) return;
    float& place = S::cell(partial, warp * LEVELS + level, t, j, g * ROW_GROUP + lane / 4);
    if (add) total += place;
    place = total;
  }
};

template <class B>
struct ManyTokens {
  using S = PackedShape<B>;
  static constexpr int T = B::T, BW = S::BW;
  static constexpr bool TWO = S::TWO;
  static constexpr int REGISTERS = (TWO ? 8 : 4) * BW;
  uint4 first[BW], second[TWO ? BW : 1];  // the tokens' rows, those of tokens 8 to 15

  // Rows that no token has are nothing, and not read: shared memory's bandwidth is what a product takes.
  __device__ __forceinline__ void read(const char* own, int part, int lane) {
    const char* x = own + part * (BW * S::BLOCK_X) + lane % 4 * (S::BLOCK_X / 4);
    const int row = lane / 4;
#pragma unroll
    for (int b = 0; b < BW; ++b) {
      first[b] = read_vector(x + row * S::ROW + b * S::BLOCK_X, row < T);
      if constexpr (TWO) second[b] = read_vector(x + (row + 8) * S::ROW + b * S::BLOCK_X, row + 8 < T);
    }
  }
  static __device__ __forceinline__ uint4 read_vector(const char* place, bool exists) {
    return exists ? *reinterpret_cast<const uint4*>(place) : make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void multiply(const uint4 (&w)[BW], int warp, PackedSum& sum) const {
#pragma unroll
    for (int b = 0; b < BW; ++b) {
      if (S::BLOCKS % COMPUTE_WARPS != 0 && warp * BW + b >= S::BLOCKS) break;
      const uint4 v = first[b];
      if constexpr (TWO) {
        const uint4 u = second[b];
        add_product(sum[2 * b % CHAINS], v.x, u.x, v.z, u.z, w[b].x, w[b].y);
        add_product(sum[(2 * b + 1) % CHAINS], v.y, u.y, v.w, u.w, w[b].z, w[b].w);
      } else {
        add_product(sum[2 * b % CHAINS], w[b].x, w[b].y, w[b].z, w[b].w, v.x, v.y);
        add_product(sum[(2 * b + 1) % CHAINS], w[b].x, w[b].y, w[b].z, w[b].w, v.z, v.w);
      }
    }
  }
  static __device__ __forceinline__ void put(float* partial, int warp, int lane, int j, int g, bool add,
                                             const PackedSum& sum) {
    if constexpr (TWO) {
      float total[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] = sum[0][i] + sum[1][i] + (sum[2][i] + sum[3][i]);
      const int t = lane / 4, row = g * ROW_GROUP + lane % 4 * 2;
      put_pair(partial, warp, t, j, row, add, total[0], total[1]);
      put_pair(partial, warp, t + 8, j, row, add, total[2], total[3]);
    } else {
      const float low = sum[0][0] + sum[2][0] + (sum[1][2] + sum[3][2]);   // of token 2 * (lane % 4)
      const float high = sum[0][1] + sum[2][1] + (sum[1][3] + sum[3][3]);  // and of the next
      // Half of the lanes put the second first, so that all banks serve the warp's.
      const int t = lane % 4 * 2, swaps = lane % 4 / 2, row = g * ROW_GROUP + lane / 4;
      put_one(partial, warp, t + swaps, j, row, add, swaps != 0 ? high : low);
      put_one(partial, warp, t + 1 - swaps, j, row, add, swaps != 0 ? low : high);
    }
  }
  static __device__ __forceinline__ void put_one(float* partial, int warp, int t, int j, int row, bool add,
                                                 float a) {
    if (t >= T) return;
    float& place = S::cell(partial, warp, t, j, row);
    if (add) a += place;
    place = a;
  }
  static __device__ __forceinline__ void put_pair(float* partial, int warp, int t, int j, int row, bool add,
                                                  float a, float b) {
    if (t >= T) return;
    float2* place = reinterpret_cast<float2*>(&S::cell(partial, warp, t, j, row));
    if (add) a += place->x, b += place->y;
    *place = make_float2(a, b);
  }
};

}  // namespace mpk
