// Neighbouring weights of a norm, as they come: who asks for more does not wait for them.
//
// A printed prologue says
//   using Scale = mpk::bf16;          of the weights, constant and aligned to 8 elements, else void
//   static __device__ const Scale* scale_row(const Work&);                       not for void
//   template <int E> static __device__ void scale(const Work&, int k, float (&g)[E]);   E from k on
#pragma once
#include "abi.cuh"

namespace mpk {

// N of them, of whatever prologue has weights of this type.
template <class Scale, int N>
struct NormScales {
  Vector<Scale, N> raw;
  template <class P>
  __device__ __forceinline__ void fetch(const Work& work, int k) {
    raw = load_constant_vector<Scale, N>(P::scale_row(work) + k);
  }
  __device__ __forceinline__ float get(int i) const { return raw.get(i); }
  __device__ __forceinline__ u32 pair(int i) const { return raw.word[i / 2]; }  // of bf16
  __device__ __forceinline__ void take(const NormScales& other, bool takes) {
#pragma unroll
    for (int i = 0; i < raw.BYTES / 4; ++i) raw.word[i] = takes ? other.raw.word[i] : raw.word[i];
  }
};
template <int N>
struct NormScales<void, N> {
  float raw[N];
  template <class P>
  __device__ __forceinline__ void fetch(const Work& work, int k) {
    P::template scale<N>(work, k, raw);
  }
  __device__ __forceinline__ float get(int i) const { return raw[i]; }
  __device__ __forceinline__ void take(const NormScales& other, bool takes) {
#pragma unroll
    for (int i = 0; i < N; ++i) raw[i] = takes ? other.raw[i] : raw[i];
  }
};

// Those of a prologue, which may have no norm.
template <class P, int N, bool NORM>
struct ScalesOf {
  using type = NormScales<typename P::Scale, N>;
  static constexpr bool halves = is_same<typename P::Scale, bf16>;
};
template <class P, int N>
struct ScalesOf<P, N, false> {
  struct type {};
  static constexpr bool halves = false;
};

}  // namespace mpk
