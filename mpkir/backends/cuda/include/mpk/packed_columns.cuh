// How a warp's part of x of many tokens comes into registers, without shared memory.
#pragma once
#include "norm_scales.cuh"
#include "packed_fragments.cuh"
#include "tagged.cuh"

namespace mpk {

// A lane's columns of a block are 8 of its token (and of the one 8 further on): 16 bytes, or 32 in words
// of 4. Of these two lanes together ask for those of one, then for those of the other, so that no sector
// of memory is asked for twice, and swap what they have of each other's.
template <class B>
struct PackedHeld {
  using S = PackedShape<B>;
  using prologue = typename B::prologue;
  using Columns = ManyTokens<B>;
  static constexpr int T = B::T, BW = S::BW, PP = S::PP;
  static constexpr bool NORM = S::NORM, TWO = S::TWO;
  static constexpr int TOKENS = T > 8 ? 2 : 1;  // of a lane
  static constexpr int LOADS = S::IS_HALVES ? 1 : 2, EACH = 8 / LOADS;  // of a lane's columns
  static constexpr int COUNT = PP * BW * TOKENS;
  static constexpr int AT_ONCE = least(COUNT, most(1, WORDS_TOGETHER / 4 / LOADS) * TOKENS);
  Columns part[PP];
  Fetched<typename prologue::X, EACH> piece[AT_ONCE][LOADS];
  using Scales = ScalesOf<prologue, EACH, NORM>;
  typename Scales::type scales[ceil_div(AT_ONCE, TOKENS)][LOADS];  // of them
  // Where x and weights are bf16, products of two need no more bits than a float has: they are rounded
  // once, two at a time, and sums of squares are products of x with itself on tensor cores.
  static constexpr bool IN_HALVES = S::IS_HALVES && Scales::halves;
  float square[TOKENS][IN_HALVES ? 4 : 1];

  static __device__ __forceinline__ int token(int i, int lane) { return lane / 4 + 8 * (i % TOKENS); }
  // Whose columns a lane asks for: where its token does not exist the last one's, as other lanes of that
  // request do, so that nothing hangs on the lane. Of what becomes of them nothing is put anywhere.
  static __device__ __forceinline__ int asked(int i, int lane) {
    return 8 * (i % TOKENS + 1) <= T ? token(i, lane) : least(token(i, lane), T - 1);
  }
  static __device__ __forceinline__ bool exists(int i, int warp) {
    return S::BLOCKS % COMPUTE_WARPS == 0 || warp * BW + i / TOKENS % BW < S::BLOCKS;
  }
  // The first column in a pass, and how many blocks on i is.
  static __device__ __forceinline__ int origin(int pass, int warp, int lane) {
    return pass * (PP * S::COLUMNS) + warp * (BW * BLOCK_COLUMNS) +
           (LOADS == 1 ? lane % 4 * 8 : lane % 4 / 2 * 16 + lane % 2 * 4);
  }
  static constexpr __device__ int blocks_on(int i) {
    return i / TOKENS / BW * S::BLOCKS + i / TOKENS % BW;
  }
  static __device__ __forceinline__ int column(int i, int h, int pass, int warp, int lane) {
    return origin(pass, warp, lane) + blocks_on(i) * BLOCK_COLUMNS + h * 8;
  }
  // One address and constants: what lies apart does so in parts of blocks, but compilers see that not.
  __device__ __forceinline__ void ask_piece(const Work& work, int i, int h, int pass, int warp, int lane) {
    const auto* row = prologue::x(work, 0, 0);
    const i64 block = prologue::x(work, 0, BLOCK_COLUMNS) - row, eight = prologue::x(work, 0, 8) - row;
    piece[i % AT_ONCE][h].request(prologue::x(work, asked(i, lane), origin(pass, warp, lane)) +
                                  (blocks_on(i) * block + h * eight));
  }
  __device__ __forceinline__ void ask(const Work& work, int i, int pass, int warp, int lane) {
    if (!exists(i, warp)) return;
#pragma unroll
    for (int h = 0; h < LOADS; ++h) ask_piece(work, i, h, pass, warp, lane);
  }
  // The weights of the norm for a token's piece and those of other tokens beside it; after the pieces,
  // which are looked at first.
  __device__ __forceinline__ void ask_scales(const Work& work, int i, int pass, int warp, int lane) {
    if constexpr (NORM) {
      if (i % TOKENS != 0 || !exists(i, warp)) return;
#pragma unroll
      for (int h = 0; h < LOADS; ++h) 
        scales[i % AT_ONCE / TOKENS][h].template fetch<prologue>(work, column(i, h, pass, warp, lane));
    }
  }
  // The first of a pass.
  __device__ __forceinline__ void ask(const Work& work, int pass, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) ask(work, i, pass, warp, lane);
  }
  // Until those from `first` on are there.
  __device__ __forceinline__ void await(const Work& work, int first, int pass, int warp, int lane) {
    const auto there = [&](int i, int h) {
      return i >= COUNT || !exists(i, warp) || piece[i % AT_ONCE][h].arrived(work.tag);
    };
    for (u32 polls = 1;; ++polls) {
      bool all = true;
#pragma unroll
      for (int i = first; i < first + AT_ONCE; ++i) all &= there(i, 0) && there(i, LOADS - 1);
      if (all || gives_up(work, polls)) break;
#pragma unroll
      for (int i = first; i < first + AT_ONCE; ++i)
#pragma unroll
        for (int h = 0; h < LOADS; ++h)
          if (!there(i, h)) ask_piece(work, i, h, pass, warp, lane);
    }
    __syncwarp();
  }
  static __device__ __forceinline__ uint4 whole(const u32 (&word)[1][4], int) {
    return make_uint4(word[0][0], word[0][1], word[0][2], word[0][3]);
  }
  static __device__ __forceinline__ uint4 whole(const u32 (&word)[2][2], int lane) {
    const bool odd = lane % 2 != 0;
    const u32 a = __shfl_xor_sync(0xffffffffu, odd ? word[0][0] : word[1][0], 1);
    const u32 b = __shfl_xor_sync(0xffffffffu, odd ? word[0][1] : word[1][1], 1);
    return odd ? make_uint4(a, b, word[1][0], word[1][1]) : make_uint4(word[0][0], word[0][1], a, b);
  }
  // What has come, times the norm's weights, to its place.
  __device__ __forceinline__ void keep(int i, int warp, int lane) {
    u32 word[LOADS][EACH / 2];
#pragma unroll
    for (int h = 0; h < LOADS; ++h) {
      if constexpr (S::IS_HALVES && (!NORM || IN_HALVES)) {
#pragma unroll
        for (int e = 0; e < EACH; e += 2) word[h][e / 2] = exists(i, warp) ? piece[i % AT_ONCE][h].pair(e) : 0;
      } else {
        float v[EACH];
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
          v[e] = exists(i, warp) ? piece[i % AT_ONCE][h].get(e) : 0.0f;
          if constexpr (NORM) {
            square[i % TOKENS][0] = fmaf(v[e], v[e], square[i % TOKENS][0]);
            v[e] *= scales[i % AT_ONCE / TOKENS][h].get(e);
          }
        }
#pragma unroll
        for (int e = 0; e < EACH; e += 2) word[h][e / 2] = bf16_pair(v[e], v[e + 1]);
      }
    }
    const uint4 all = whole(word, lane);
    Columns& columns = part[i / TOKENS / BW];
    if (i % TOKENS == 0) columns.first[i / TOKENS % BW] = all;
    else columns.second[TWO ? i / TOKENS % BW : 0] = all;
  }
  // Squares of what tokens of a block have just been put to its place, which is multiplied by the norm's
  // weights then.
  __device__ __forceinline__ void norm(int i, int warp) {
    Columns& columns = part[i / TOKENS / BW];
    const int b = i / TOKENS % BW;
    uint4& v = columns.first[b];
    uint4& u = columns.second[TWO ? b : 0];
    const u32 none = 0;
    add_product(square[0], v.x, none, v.y, none, v.x, v.y);
    add_product(square[0], v.z, none, v.w, none, v.z, v.w);
    scale(v, i, warp);
    if constexpr (TWO) {
      add_product(square[TOKENS - 1], none, u.x, none, u.y, u.x, u.y);
      add_product(square[TOKENS - 1], none, u.z, none, u.w, u.z, u.w);
      scale(u, i, warp);
    }
  }
  __device__ __forceinline__ void scale(uint4& x, int i, int warp) {
    if (!exists(i, warp)) return;
    constexpr u32 NOTHING = 0x80008000;  // -0, to which adding changes nothing
    const auto& g = scales[i % AT_ONCE / TOKENS][0];
    x.x = multiply_add(x.x, g.pair(0), NOTHING);
    x.y = multiply_add(x.y, g.pair(2), NOTHING);
    x.z = multiply_add(x.z, g.pair(4), NOTHING);
    x.w = multiply_add(x.w, g.pair(6), NOTHING);
  }
  // A token's sum of squares over the warp's columns; only some lanes have one.
  __device__ __forceinline__ void put_squares(float* squares, int lane) {
#pragma unroll
    for (int i = 0; i < TOKENS; ++i) {
      const int t = token(i, lane);
      if constexpr (IN_HALVES) {
        // Row t and column t of the products.
        const bool odd = lane / 4 % 2 != 0;
        const float sum = odd ? square[i][2 * i + 1] : square[i][2 * i];
        if (lane % 4 == lane / 8 && t < T) squares[t] = sum;
      } else {
        float sum = square[i][0];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0 && t < T) squares[t] = sum;
      }
    }
  }
  // All of a pass, behind ask.
  __device__ __forceinline__ void take(const Work& work, int pass, int warp, int lane) {
    if (pass == 0) {
#pragma unroll
      for (int t = 0; t < TOKENS; ++t)
#pragma unroll
        for (float& sum : square[t]) sum = 0.0f;
    }
#pragma unroll
    for (int first = 0; first < COUNT; first += AT_ONCE) {
      if (first == 0) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) ask_scales(work, i, pass, warp, lane);
      }
      await(work, first, pass, warp, lane);
#pragma unroll
      for (int i = first; i < least(first + AT_ONCE, COUNT); i += TOKENS) {
#pragma unroll
        for (int t = i; t < i + TOKENS; ++t) {
          keep(t, warp, lane);
          if (t + AT_ONCE < COUNT) ask(work, t + AT_ONCE, pass, warp, lane);
        }
        if constexpr (IN_HALVES) norm(i, warp);
        if (i + AT_ONCE < COUNT) ask_scales(work, i + AT_ONCE, pass, warp, lane);
      }
    }
  }
};

}  // namespace mpk
