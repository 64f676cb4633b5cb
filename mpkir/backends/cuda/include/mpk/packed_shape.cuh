// How a product over packed weights is cut: its stages, what of x a warp has and how it comes, where
// sums go; packed_linear.cuh says how weights lie.
#pragma once
#include "brief.cuh"
#include "linear_direct.cuh"
#include "runtime.cuh"

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
constexpr int WORDS_TOGETHER = 32;  // of x, that a lane has asked for at once; of several tokens,
                                    // twice as many of more than 8

template <class B>
struct PackedShape {
  using prologue = typename B::prologue;
  static constexpr int T = B::T, PARTS = B::PARTS;
  static constexpr int COLUMNS = B::K / PARTS;              // of a stage
  static constexpr int BLOCKS = COLUMNS / BLOCK_COLUMNS;    // of a stage
  static constexpr int BW = ceil_div(BLOCKS, COMPUTE_WARPS);  // of them, a warp's
  static constexpr int GROUPS = ceil_div(B::ROWS, ROW_GROUP);
  // x of a warp: rows of so many bytes, of odd multiples of 64 so that two rows use all banks. With LOW
  // four elements are followed by what they lost, as fragments have it.
  static constexpr int row_bytes(int parts, int block) {
    const int bytes = parts * BW * block;
    return T > 1 && bytes % 128 == 0 ? bytes + 64 : bytes;
  }
  static constexpr int x_bytes(int parts, int block) { return COMPUTE_WARPS * T * row_bytes(parts, block); }
  static constexpr int LIMIT = T <= 8 ? X_LIMIT : X_LIMIT / 2 * 3;
  // Whether the bits that rounding x to bf16 lost are multiplied, too: of two tokens only where x comes
  // in one pass all the same, and not of more, whose x would fill registers and memory that weights need.
  static constexpr bool LOW = !prologue::exact && T <= 2 && (T == 1 || x_bytes(PARTS, 128) <= LIMIT);
  static constexpr int BLOCK_X = LOW ? 128 : 64;
  static constexpr bool FEW = T <= 2;  // tokens: packed_fragments.cuh; FEW_TOKENS of dialects/task
  // Whether the lanes that multiply x fetch it themselves, into registers: of many tokens, in words of
  // at most 4 bytes. All of a row if that fits, else what leaves room for the words of the pass that
  // follows.
  static constexpr bool IS_HALVES = is_same<typename prologue::X, Brief<bf16>>;
  static constexpr bool STRAIGHT =
      !FEW && prologue::direct && (IS_HALVES || sizeof(typename prologue::X) == 4);
  static constexpr int HELD = BW * (T > 8 ? 8 : 4);  // registers of a part
  static constexpr int parts_held() {
    int parts = PARTS * HELD <= 64 ? PARTS : most(1, 32 / HELD);
    while (PARTS % parts != 0) --parts;
    return parts;
  }
  static constexpr int EACH = IS_HALVES ? 8 : 4;             // elements of x in a lane's request
  static constexpr int ROW_REQUESTS = BLOCK_COLUMNS / EACH;  // of a block
  static constexpr int lane_requests(int parts) { return ceil_div(parts * BW * ROW_REQUESTS, 32); }
  static constexpr int words(int parts) {  // of a lane, for one token
    return lane_requests(parts) * EACH * int(sizeof(typename prologue::X)) / 4;
  }
  static constexpr int parts_at_once() {
    if (STRAIGHT) return parts_held();
    if (x_bytes(PARTS, BLOCK_X) <= LIMIT) return PARTS;
    // A lane holds the words of the pass that follows while it multiplies; passes alike if they can be.
    int most_parts = PARTS;
    while (most_parts > 1 && (x_bytes(most_parts, BLOCK_X) > LIMIT || words(most_parts) > WORDS_TOGETHER))
      --most_parts;
    int alike = most_parts;
    while (PARTS % alike != 0) --alike;
    return 2 * alike > most_parts ? alike : most_parts;
  }
  static constexpr int PP = parts_at_once();  // parts of a pass
  static constexpr int PASSES = ceil_div(PARTS, PP);
  static constexpr int ROW = row_bytes(PP, BLOCK_X);
  static constexpr int X = STRAIGHT ? 0 : x_bytes(PP, BLOCK_X) / COMPUTE_WARPS;  // bytes of a warp
  static constexpr int LEVELS = LOW ? 2 : 1;             // of x: as rounded, and what that lost
  static constexpr int ADDENDS = COMPUTE_WARPS * LEVELS;  // of a sum
  static constexpr int SQUARES = COMPUTE_WARPS * T;      // a sum for each warp and token
  // Sums of a token, in floats: of several, odd multiples of 8, so that all banks serve a warp's.
  static constexpr int SUMS = T > 1 && B::J * B::ROWS % 16 == 0 ? B::J * B::ROWS + 8 : B::J * B::ROWS;
  static constexpr int PARTIAL = (ADDENDS * T * SUMS + SQUARES) * 4;
  static_assert(T <= 16, "the tokens are the rows of one fragment");
  static_assert(B::K % (PARTS * BLOCK_COLUMNS) == 0 && B::N % ROW_GROUP == 0, "whole blocks");
  static_assert(B::ROWS % ROW_GROUP == 0 && ROW_GROUP * COLUMNS * 2 <= SLOT, "a stage fits a slot");
  static_assert(prologue::norm != Norm::layer, "the factor is the only thing a norm may leave over");

  static constexpr bool NORM = prologue::norm != Norm::none;
  static constexpr int J = B::J, ROWS = B::ROWS;
  static constexpr bool TWO = T > 8;  // whether fragments of many tokens have rows 8 to 15

  static __device__ __forceinline__ int groups_of(const Work& work) {
    if constexpr (B::N % ROWS == 0) return GROUPS;
    return least(GROUPS, (B::N - B::first_row(work.index)) / ROW_GROUP);
  }

  static constexpr int REQUESTS = PP * BW * ROW_REQUESTS;  // of a warp, for one token
  static constexpr int LANE_REQUESTS = lane_requests(PP), WORDS = words(PP);

  // What a worker polls of long rows would slow the weights' stream, which has the time then.
  // Of several tokens a round of polls takes long enough.
  static constexpr int PAUSE =
      T > 1 || B::K * int(sizeof(typename prologue::X)) < POLLED_FREELY ? 0 : POLL_PAUSE;

  // The first column of a lane's request, in a pass; -1: there is none.
  static __device__ __forceinline__ int column_of(int request, int pass, int warp) {
    const int part = request / (BW * ROW_REQUESTS);
    const int within = warp * (BW * BLOCK_COLUMNS) + request % (BW * ROW_REQUESTS) * EACH;
    const bool exists = (REQUESTS % 32 == 0 || request < REQUESTS) &&
                        (BLOCKS % COMPUTE_WARPS == 0 || within < COLUMNS) &&
                        (B::PARTS % PP == 0 || pass * PP + part < B::PARTS);
    return exists ? (pass * PP + part) * COLUMNS + within : -1;
  }

  // Behind a warp's x: its sums of squares.
  static __device__ __forceinline__ float* squares_of(char* own) {
    return reinterpret_cast<float*>(own + X);
  }

  // Where an addend of the sum of (t, j, row) goes: over a warp's columns, at one level of x.
  static __device__ __forceinline__ float& cell(float* partial, int addend, int t, int j, int row) {
    if constexpr (T == 1) return partial[((addend * T + t) * J + j) * ROWS + row];
    return partial[(addend * T + t) * SUMS + j * ROWS + row];
  }
  static __device__ __forceinline__ float* squares_in(float* partial) { return partial + ADDENDS * T * SUMS; }
};

}  // namespace mpk
