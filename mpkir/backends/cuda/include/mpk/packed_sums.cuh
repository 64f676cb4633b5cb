// What becomes of the sums of a product over packed weights: the compute warps join theirs, and store
// what the epilogue makes of them; where it needs other operands, the publisher does, which has fetched
// them meanwhile.
#pragma once
#include "packed_shape.cuh"

namespace mpk {

template <class B>
struct PackedSums {
  using S = PackedShape<B>;
  using prologue = typename B::prologue;
  using epilogue = typename B::epilogue;
  using Inputs = typename epilogue::Inputs;
  static constexpr int T = B::T, ROWS = B::ROWS, J = B::J;
  static constexpr bool FETCHES = !__is_empty(Inputs);

  // Neighbouring lanes have the features of a block, then the next token's.
  static __device__ __forceinline__ int token(int at) { return at / ROW_GROUP % T; }
  static __device__ __forceinline__ int row(int at) {
    return at / (ROW_GROUP * T) * ROW_GROUP + at % ROW_GROUP;
  }
  static __device__ __forceinline__ int count(const Work& work) {
    return S::groups_of(work) * ROW_GROUP * T;
  }

  static __device__ __forceinline__ float factor(float* partial, int t) {
    if constexpr (S::NORM) {
      float squares = 0.0f;
#pragma unroll
      for (int w = 0; w < COMPUTE_WARPS; ++w) squares += S::squares_in(partial)[w * T + t];
      return rsqrtf(squares / B::K + prologue::eps);
    } else {
      return 1.0f;
    }
  }

  // ---- compute: behind a barrier of all its warps ----

  static __device__ __forceinline__ void join(const Work& work, float* partial, int warp, int lane) {
#pragma unroll 1
    for (int at = 32 * warp + lane; at < count(work); at += 32 * COMPUTE_WARPS) {
      const int t = token(at), r = row(at);
      float y[J];
#pragma unroll
      for (int j = 0; j < J; ++j) {
        float addend[S::ADDENDS];
#pragma unroll
        for (int a = 0; a < S::ADDENDS; ++a) addend[a] = S::cell(partial, a, t, j, r);
        y[j] = 0.0f;
#pragma unroll
        for (int a = 0; a < S::ADDENDS; ++a) y[j] += addend[a];
        y[j] *= factor(partial, t);
        if constexpr (FETCHES) S::cell(partial, 0, t, j, r) = y[j];
      }
      if constexpr (!FETCHES) epilogue::store(work, t, r, y, {});
    }
  }

  // ---- publisher ----

  template <class R>
  static __device__ __forceinline__ void publish(R& role, const Work& work) {
    if constexpr (FETCHES) {
      constexpr int ROUNDS = ceil_div(T * ROWS, 32), AT_ONCE = least(ROUNDS, 8);
      const int all = count(work);
      Inputs inputs[AT_ONCE];
      const auto fetch = [&](int first) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const int at = 32 * (first + i) + role.lane;
          if (at < all) inputs[i] = epilogue::load(work, token(at), row(at));
        }
      };
      fetch(0);
      float* partial = const_cast<float*>(role.wait_partial());
#pragma unroll 1
      for (int first = 0;;) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const int at = 32 * (first + i) + role.lane;
          if (at >= all) continue;
          float y[J];
#pragma unroll
          for (int j = 0; j < J; ++j) y[j] = S::cell(partial, 0, token(at), j, row(at));
          epilogue::store(work, token(at), row(at), y, inputs[i]);
        }
        first += AT_ONCE;
        if (first >= ROUNDS) break;
        fetch(first);
      }
    } else {
      role.wait_partial();
    }
    role.published(work);
  }
};

}  // namespace mpk
