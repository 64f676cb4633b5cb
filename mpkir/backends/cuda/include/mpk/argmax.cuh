// Index of the largest element, the lowest of equals, a NaN above everything (as PyTorch orders).
//
// ArgmaxPartial, of chunks of the last dimension. A printed body says
//   static constexpr int ROWS, CHUNKS, CHUNK;
//   static __device__ int origin(const Work&);                     number of the task's first chunk
//   static constexpr int WIDTH;                                    of the whole last dimension
//   using X;                                                       its elements in memory; void:
//   static __device__ float x(const Work&, int row, int i);        one by one; i within the task
//   static __device__ const X* four(const Work&, int row, int i);  else: 4 divides i, aligned to 4
//   static __device__ void store(const Work&, int row, int chunk, float value, i64 index);
// ArgmaxMerge. A printed body says
//   static constexpr int ROWS, COUNT;                              candidates of each row
//   static __device__ float value(const Work&, int row, int i);
//   static __device__ i64 index(const Work&, int row, int i);
//   static __device__ void store(const Work&, int row, i64 index);
//   static constexpr bool append;
//   and, where it appends, the last of each sequence's rows:
//   static constexpr int T, SEQUENCES;  static constexpr i64 capacity;  tokens of a step; places of a sequence
//   static constexpr bool marks;                       an ended sequence is marked, the last one stops
//   static __device__ i64* sequence(const Work&);      SEQUENCES x capacity
//   static __device__ bool stops(i64 token);
// SequenceAppend is the last part of it alone, for tokens that something else chose:
//   static __device__ i64 token(const Work&, int row);
#pragma once
#include "abi.cuh"
#include "sync.cuh"
#include "tagged.cuh"
#include "trace.cuh"

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
  // Over a warp; every lane gets the result.
  __device__ __forceinline__ void join_warp() {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, value, offset);
      const i64 i = __shfl_xor_sync(0xffffffffu, index, offset);
      take(v, i);
    }
  }
  // Over all compute threads; every thread gets the result.
  __device__ __forceinline__ void join(char* scratch) {
    join_warp();
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
  static constexpr int ITEMS = B::ROWS * B::CHUNKS;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    if constexpr (ITEMS > 1) {
      const int lane = threadIdx.x % WARP;
      for (int item = threadIdx.x / WARP; item < ITEMS; item += COMPUTE_WARPS) {
        const int row = item / B::CHUNKS, chunk = item % B::CHUNKS;
        Candidate best = look<WARP, 8>(work, row, chunk, lane);
        if (threadIdx.x == 0) mark(work, Mark::ready_data);
        best.join_warp();
        if (lane == 0) keep(work, row, chunk, best);
      }
    } else {
      Candidate best = look<COMPUTE_THREADS, 4>(work, 0, 0, threadIdx.x);
      if (threadIdx.x == 0) mark(work, Mark::ready_data);
      best.join(scratch);
      if (threadIdx.x == 0) keep(work, 0, 0, best);
    }
  }

  // The best of a chunk among the elements of one of THREADS threads; U of its loads are in flight.
  template <int THREADS, int U>
  static __device__ __forceinline__ Candidate look(const Work& work, int row, int chunk, int thread) {
    const i64 first = i64(B::origin(work) + chunk) * B::CHUNK;
    const int count = B::WIDTH - first < B::CHUNK ? int(B::WIDTH - first) : B::CHUNK;
    Candidate best{0.0f, -1};
    if constexpr (is_same<typename B::X, void>) {
#pragma unroll U
      for (int i = thread; i < count; i += THREADS) best.take(B::x(work, row, chunk * B::CHUNK + i), first + i);
    } else {
      constexpr int AT_ONCE = least(ceil_div(B::CHUNK, 4 * THREADS), U);
#pragma unroll 1
      for (int from = 4 * thread; from < count; from += 4 * AT_ONCE * THREADS) {
        Fetched<typename B::X, 4> four[AT_ONCE] = {};
        await_all<4, AT_ONCE>(
            work, [&](int j) { return B::four(work, row, chunk * B::CHUNK + from + 4 * j * THREADS); },
            [&](int j) { return from + 4 * j * THREADS < count; }, four);
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int i = from + 4 * j * THREADS + e;
            if (i < count) best.take(four[j].get(e), first + i);
          }
      }
    }
    return best;
  }
  static __device__ __forceinline__ void keep(const Work& work, int row, int chunk, const Candidate& best) {
    if (i64(B::origin(work) + chunk) * B::CHUNK < B::WIDTH) B::store(work, row, chunk, best.value, best.index);
  }
};

// Puts a token after the step's last one unless it is known; whether the sequence ends with it. An ended
// sequence that is not the only one has -2 where its next token would go.
template <class B>
__device__ __forceinline__ bool append_token(const Work& work, int sequence, i64 token) {
  const i64 place = work.position + B::T;
  if (place < 0 || place >= B::capacity) return false;
  i64* tokens = B::sequence(work) + sequence * B::capacity;
  const i64 known = load(tokens + place);
  bool ends = false;
  if (known == -1) {
    tokens[place] = token;
    ends = B::stops(token);
  }
  if constexpr (B::marks) {
    ends = ends || known == -2;
    if (ends && place + B::T < B::capacity) tokens[place + B::T] = -2;
  }
  return ends;
}

// A token for each sequence, chosen(sequence); asks for a stop when all have ended. One warp.
template <class B, class Chosen>
__device__ __forceinline__ void append_tokens(const Work& work, const LaunchArgs& args, Chosen chosen) {
  bool all = true;
  for (int sequence = threadIdx.x % WARP; sequence < B::SEQUENCES; sequence += WARP)
    all = append_token<B>(work, sequence, chosen(sequence)) && all;
  all = __all_sync(0xffffffffu, all);
  if (threadIdx.x % WARP == 0 && all) {
    atomicMin(&args.control->stop_at, work.step + 1);
    args.control->tell_stop(work.step + 1);
  }
}

// Tells the host what stands behind the step's last token in each sequence; one warp, behind a barrier
// that follows append_tokens.
template <class B>
__device__ __forceinline__ void tell_tokens(const Work& work, const LaunchArgs& args, int lane) {
  const i64 place = work.position + B::T;
  if (place < 0 || place >= B::capacity) return;
  for (int sequence = lane; sequence < B::SEQUENCES; sequence += WARP) {
    const i64 at = sequence * B::capacity + place;
    const u32 token = u32(load(B::sequence(work) + at));
    u64* told = args.control->told;  // asked for with the token
    if (told != nullptr) store_system(told + at, u64(work.tag) << 32 | token);
  }
}

template <class B>
struct ArgmaxMerge {
  static constexpr bool streams = false;
  static constexpr int partial_bytes = 0;
  static constexpr int scratch_bytes =
      Candidate::scratch_bytes > 8 * B::ROWS ? Candidate::scratch_bytes : 8 * B::ROWS;

  static __device__ void run(const Work& work, const LaunchArgs& args, char* scratch) {
    if constexpr (B::ROWS == 1) {
      Candidate best = look<COMPUTE_THREADS>(work, 0, threadIdx.x);
      best.join(scratch);
      if (threadIdx.x == 0) B::store(work, 0, best.index);
      if constexpr (B::append) {
        if (threadIdx.x < WARP) append_tokens<B>(work, args, [&](int) { return best.index; });
      }
    } else {
      i64* chosen = reinterpret_cast<i64*>(scratch);
      for (int row = threadIdx.x / WARP; row < B::ROWS; row += COMPUTE_WARPS) {
        Candidate best = look<WARP>(work, row, threadIdx.x % WARP);
        best.join_warp();
        if (threadIdx.x % WARP != 0) continue;
        B::store(work, row, best.index);
        chosen[row] = best.index;
      }
      if constexpr (B::append) {
        constexpr int EACH = B::ROWS / B::SEQUENCES;
        compute_sync();
        if (threadIdx.x < WARP)
          append_tokens<B>(work, args, [&](int sequence) { return chosen[(sequence + 1) * EACH - 1]; });
      }
    }
  }

  static __device__ __forceinline__ void tell(const Work& work, const LaunchArgs& args, int lane) {
    if constexpr (B::append) tell_tokens<B>(work, args, lane);
  }

  template <int THREADS>
  static __device__ __forceinline__ Candidate look(const Work& work, int row, int thread) {
    Candidate best{0.0f, -1};
#pragma unroll 4
    for (int i = thread; i < B::COUNT; i += THREADS)
      best.take(B::value(work, row, i), B::index(work, row, i));
    return best;
  }
};

template <class B>
struct SequenceAppend {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs& args, char*) {
    if (threadIdx.x < WARP)
      append_tokens<B>(work, args, [&](int sequence) { return B::token(work, sequence); });
  }
  static __device__ __forceinline__ void tell(const Work& work, const LaunchArgs& args, int lane) {
    tell_tokens<B>(work, args, lane);
  }
};

}  // namespace mpk
