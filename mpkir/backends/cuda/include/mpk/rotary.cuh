// Sine and cosine for rotary embedding, in fp32 as PyTorch computes the angle: position * inv_freq.
#pragma once
#include "types.cuh"

namespace mpk {

enum class Rotary { none, half, interleaved };

// Cody-Waite reduction and minimax polynomials; good to about 2 ulp for |angle| up to 2^22. The
// library's sincosf would bring a slow path with a local array into every body that rotates.
__device__ __forceinline__ void sine_cosine(float angle, float& sine, float& cosine) {
  const float turns = rintf(angle * 0.636619772f);
  float r = fmaf(turns, -1.57079601e+00f, angle);
  r = fmaf(turns, -3.13916473e-07f, r);
  r = fmaf(turns, -5.39030253e-15f, r);
  const float r2 = r * r;
  float s = fmaf(2.86567956e-6f, r2, -1.98559923e-4f);
  s = fmaf(s, r2, 8.33338592e-3f);
  s = fmaf(s, r2, -1.66666672e-1f);
  s = fmaf(s, r2 * r, r);
  float c = fmaf(2.44677067e-5f, r2, -1.38877297e-3f);
  c = fmaf(c, r2, 4.16666567e-2f);
  c = fmaf(c, r2, -0.5f);
  c = fmaf(c, r2, 1.0f);
  const int quadrant = int(turns) & 3;
  sine = quadrant & 1 ? c : s;
  cosine = quadrant & 1 ? s : c;
  if (quadrant & 2) sine = -sine;
  if ((quadrant + 1) & 2) cosine = -cosine;
}

// Element i of a row whose first R elements turn; row[] is in shared memory.
template <Rotary KIND, int R>
__device__ __forceinline__ float rotated(const float* row, int i, i64 position, const float* inv_freq,
                                         float scale) {
  if (KIND == Rotary::none || i >= R) return row[i];
  const int pair = KIND == Rotary::half ? i % (R / 2) : i / 2;
  const bool second = KIND == Rotary::half ? i >= R / 2 : i % 2;
  const int other = KIND == Rotary::half ? (second ? i - R / 2 : i + R / 2) : i ^ 1;
  float sine, cosine;
  sine_cosine(float(position) * inv_freq[pair], sine, cosine);
  return scale * (second ? row[i] * cosine + row[other] * sine : row[i] * cosine - row[other] * sine);
}

}  // namespace mpk
