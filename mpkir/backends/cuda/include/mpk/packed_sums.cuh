// What becomes of the sums of a product over packed weights: the compute warps join theirs, and store
// what the epilogue makes of them and of what they have asked for meanwhile.
#pragma once
#include "best.cuh"
#include "packed_shape.cuh"
#include "reduce.cuh"

namespace mpk {

template <class B>
struct PackedSums {
  using S = PackedShape<B>;
  using prologue = typename B::prologue;
  using epilogue = typename B::epilogue;
  static constexpr int T = B::T, J = B::J;
  static constexpr int ROUNDS = ceil_div(T * B::ROWS, COMPUTE_THREADS), AT_ONCE = least(ROUNDS, 2);
  typename epilogue::Inputs inputs[AT_ONCE];

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
      float squares[COMPUTE_WARPS];
#pragma unroll
      for (int w = 0; w < COMPUTE_WARPS; ++w) squares[w] = S::squares_in(partial)[w * T + t];
      return rsqrtf(halves_sum(squares) * (1.0f / B::K) + prologue::eps);
    } else {
      return 1.0f;
    }
  }

  // What ends sums from `first` on.
  __device__ __forceinline__ void ask(const Work& work, int first) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const int at = first + i * COMPUTE_THREADS;
      if (at < count(work)) inputs[i].request(work, token(at), row(at));
    }
  }

  // Behind a barrier of all compute warps, and after ask of the same `first`.
  __device__ __forceinline__ void join(const Work& work, float* partial, int first) {
#pragma unroll 1
    for (;;) {
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const int at = first + i * COMPUTE_THREADS;
        if (at >= count(work)) return;
        const int t = token(at), r = row(at);
        float y[J];
#pragma unroll
        for (int j = 0; j < J; ++j) {
          float addend[S::ADDENDS];
#pragma unroll
          for (int a = 0; a < S::ADDENDS; ++a) addend[a] = S::cell(partial, a, t, j, r);
          y[j] = halves_sum(addend) * factor(partial, t);
        }
        await_inputs(work, t, r, inputs[i]);
        if constexpr (best_of<B> > 0) {
          // In the place of a sum that nobody else reads.
          S::cell(partial, 0, t, 0, r) = epilogue::store(work, t, r, y, inputs[i]);
        } else {
          epilogue::store(work, t, r, y, inputs[i]);
        }
      }
      first += AT_ONCE * COMPUTE_THREADS;
      if (ROUNDS == AT_ONCE || first >= count(work)) return;
      ask(work, first);
    }
  }

  // By the publisher, of what join has left.
  static __device__ __forceinline__ void keep(const Work& work, const float* partial, int lane) {
    keep_best<B>(work, 0, T, S::groups_of(work) * ROW_GROUP, lane,
                 [&](int t, int row) { return S::cell(const_cast<float*>(partial), 0, t, 0, row); });
  }
};

}  // namespace mpk
