// The publisher's side of a product over packed weights: the warps' sums are joined, finished by the
// epilogue and stored.
#pragma once
#include "packed_shape.cuh"

namespace mpk {

template <class B>
struct PackedSums {
  using S = PackedShape<B>;
  using prologue = typename B::prologue;
  static constexpr int T = B::T, ROWS = B::ROWS, J = B::J;
  static constexpr bool NORM = S::NORM;

  // Of several tokens: each token's factor is made once, by a lane; sums of a few rounds are on their
  // way at once.
  template <class R>
  static __device__ __forceinline__ void publish_rows(R& role, const Work& work) {
    using epilogue = typename B::epilogue;
    using Inputs = typename epilogue::Inputs;
    constexpr int ROUNDS = ceil_div(T * ROWS, 32), AT_ONCE = least(ROUNDS, 4);
    constexpr bool NONE = __is_empty(Inputs), EARLY = !NONE && ROUNDS <= 8;
    const int rows = S::groups_of(work) * ROW_GROUP;
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
          squares += S::squares_in(partial)[w * T + role.lane];
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
          for (int a = 0; a < S::ADDENDS; ++a)
            y[i][j] += S::cell(partial, a, at / ROWS, j, at % ROWS);
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
    const int rows = S::groups_of(work) * ROW_GROUP;
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
          squares += S::squares_in(partial)[w * T + t];
        factor = rsqrtf(squares / B::K + prologue::eps);
      }
      float y[J];
#pragma unroll
      for (int j = 0; j < J; ++j) {
        y[j] = 0.0f;
#pragma unroll
        for (int a = 0; a < S::ADDENDS; ++a) y[j] += S::cell(partial, a, t, j, row);
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
