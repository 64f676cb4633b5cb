// What is done to a row of q or k before it is used, with a lane for 8 of its elements: rms norm over the
// head, then rotary, each if the body has it. All that it needs but the row is there before the row is.
#pragma once
#include "attention_shape.cuh"
#include "norm_scales.cuh"
#include "reduce.cuh"
#include "rotary.cuh"

namespace mpk {

// B: a printed body of attention.cuh; P: its q_prologue or k_prologue.
template <class B, class P>
struct HeadPrologue {
  using Lane = typename AttentionShape<B>::Lane;
  static constexpr int D = B::D, LANES = AttentionShape<B>::LANES;

  typename ScalesOf<P, 8, P::norm>::type scale;
  float cosine[8], sine[8];

  __device__ __forceinline__ void fetch_scale(const Work& work, const Lane& at) {
    if constexpr (P::norm) {
      if (at.holds) scale.template fetch<P>(work, at.d);
    }
  }
  // The frequencies, which stand in `sine` until the angles are made of them.
  __device__ __forceinline__ void fetch_frequencies(const Work& work, const Lane& at) {
    if constexpr (P::rotary != Rotary::none) {
      const float* inv_freq = P::inv_freq(work);
      if constexpr (P::rotary == Rotary::half && P::R % 16 == 0) {
        if (at.d < P::R) load_constant_vector<float, 8>(inv_freq + pair(at.d)).unpack(sine);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i)
          if (at.d + i < P::R) sine[i] = load_constant(inv_freq + pair(at.d + i));
      }
    }
  }
  __device__ __forceinline__ void turn(const Lane& at, i64 position) {
    if constexpr (P::rotary != Rotary::none) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sine_cosine(float(position) * sine[i], sine[i], cosine[i]);
        const bool turns = at.d + i < P::R;
        cosine[i] = turns ? P::factor * cosine[i] : 1.0f;
        sine[i] = turns ? (is_second(at.d + i) ? P::factor : -P::factor) * sine[i] : 0.0f;
      }
    }
  }
  static __device__ __forceinline__ int pair(int d) {
    return P::rotary == Rotary::half ? d % (P::R / 2) : d / 2;
  }
  static __device__ __forceinline__ bool is_second(int d) {
    return P::rotary == Rotary::half ? d >= P::R / 2 : d % 2;
  }
  static __device__ __forceinline__ int other(int d) {
    if (d >= P::R) return d;
    return P::rotary == Rotary::half ? (d >= P::R / 2 ? d - P::R / 2 : d + P::R / 2) : d ^ 1;
  }

  // The prologue of one row for each group of LANES lanes; the whole warp. `row`: shared memory of
  // these lanes alone.
  __device__ __forceinline__ void apply(const Lane& at, float (&x)[8], float* row) const {
    // The factor of the norm comes last: rotary is linear.
    float norm = 1.0f;
    if constexpr (P::norm) {
      float sum[2] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i % 2] = fmaf(x[i], x[i], sum[i % 2]);
      norm = rsqrtf(warp_join<Add, LANES>(sum[0] + sum[1]) / D + P::eps);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= scale.get(i);
    }
    if constexpr (P::rotary != Rotary::none) {
      float partner[8];
      if constexpr (P::rotary == Rotary::interleaved) {
#pragma unroll
        for (int i = 0; i < 8; ++i) partner[i] = x[i ^ 1];
      } else if constexpr (P::R % 16 == 0) {
        const int from = at.lane - at.lane % LANES + other(at.d) / 8 % LANES;
#pragma unroll
        for (int i = 0; i < 8; ++i) partner[i] = __shfl_sync(0xffffffffu, x[i], from);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) row[at.d + i] = x[i];
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8; ++i) partner[i] = row[other(at.d + i)];
        __syncwarp();
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = fmaf(partner[i], sine[i], x[i] * cosine[i]);
    }
    if constexpr (P::norm) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= norm;
    }
  }
};

}  // namespace mpk
