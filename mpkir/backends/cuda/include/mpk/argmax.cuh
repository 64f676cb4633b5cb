// Index of the largest element, the lowest of equals, a NaN above everything (as PyTorch orders).
//
// ArgmaxPartial, of chunks of the last dimension. A printed body says
//   static constexpr int ROWS, CHUNKS, CHUNK;
//   static __device__ int origin(const Work&);                     number of the task's first chunk
//   static constexpr int WIDTH;                                    of the whole last dimension
//   static __device__ float x(const Work&, int row, int i);        i within the task
//   static __device__ void store(const Work&, int row, int chunk, float value, i64 index);
// ArgmaxMerge. A printed body says
//   static constexpr int ROWS, COUNT;                              candidates of each row
//   static __device__ float value(const Work&, int row, int i);
//   static __device__ i64 index(const Work&, int row, int i);
//   static __device__ void store(const Work&, int row, i64 index);
//   static constexpr bool append;  static constexpr int T;  static constexpr i64 capacity;
//   static __device__ i64* sequence(const Work&);
//   static __device__ bool stops(i64 token);
// SequenceAppend is the last part of it alone, for a token that something else chose.
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

struct Candidate {
  float value;
  i64 index;  // -1: none yet

  __device__ __forceinline__ void take(float v, i64 i) {
    if (i < 0) return;
    const bool nan = v != v, own_nan = value != value;
    const bool better = index < 0 || (nan && !own_nan) || (!own_nan && v > value) ||
                        ((v == value || (nan && own_nan)) && i < index);
    if (better) value = v, index = i;
  }
  // Over all compute threads; every thread gets the result.
  __device__ __forceinline__ void join(char* scratch) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, value, offset);
      const i64 i = __shfl_xor_sync(0xffffffffu, index, offset);
      take(v, i);
    }
    i64* indices = reinterpret_cast<i64*>(scratch);
    float* values = reinterpret_cast<float*>(indices + COMPUTE_WARPS);
    compute_sync();
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, indices[threadIdx.x / 32] = index;
    compute_sync();
    for (int w = 0; w < COMPUTE_WARPS; ++w) take(values[w], indices[w]);
  }
  static constexpr int scratch_bytes = 16 * COMPUTE_WARPS;
};

template <class B>
struct ArgmaxPartial {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = Candidate::scratch_bytes, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    for (int row = 0; row < B::ROWS; ++row)
      for (int chunk = 0; chunk < B::CHUNKS; ++chunk) {
        const i64 first = i64(B::origin(work) + chunk) * B::CHUNK;
        Candidate best{0.0f, -1};
#pragma unroll 4
        for (int i = threadIdx.x; i < B::CHUNK; i += COMPUTE_THREADS)
          if (first + i < B::WIDTH) best.take(B::x(work, row, chunk * B::CHUNK + i), first + i);
        best.join(scratch);
        if (threadIdx.x == 0 && first < B::WIDTH) B::store(work, row, chunk, best.value, best.index);
      }
  }
};

// Puts a token after the step's last one unless it is known, and asks for a stop after a stop token.
template <class B>
__device__ __forceinline__ void append_token(const Work& work, const LaunchArgs& args, i64 token) {
  const i64 place = work.position + B::T;
  if (place < 0 || place >= B::capacity) return;
  i64* sequence = B::sequence(work);
  const i64 known = load(sequence + place);
  if (known != -1) return;
  sequence[place] = token;
  if (B::stops(token)) atomicMin(&args.control->stop_at, work.step + 1);
}

template <class B>
struct ArgmaxMerge {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = Candidate::scratch_bytes, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs& args, char* scratch) {
    for (int row = 0; row < B::ROWS; ++row) {
      Candidate best{0.0f, -1};
      for (int i = threadIdx.x; i < B::COUNT; i += COMPUTE_THREADS)
        best.take(B::value(work, row, i), B::index(work, row, i));
      best.join(scratch);
      if (threadIdx.x != 0) continue;
      B::store(work, row, best.index);
      if constexpr (B::append) {
        if (row == B::ROWS - 1) append_token<B>(work, args, best.index);
      }
    }
  }
};

template <class B>
struct SequenceAppend {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs& args, char*) {
    if (threadIdx.x == 0) append_token<B>(work, args, B::token(work));
  }
};

}  // namespace mpk
