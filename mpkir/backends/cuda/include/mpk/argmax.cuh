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
// ArgmaxJoin, of chunks of candidates. A printed body says
//   static constexpr int ROWS, CHUNKS, CHUNK;
//   static __device__ int origin(const Work&);                     number of the task's first chunk
//   static constexpr int COUNT;                                    candidates of a whole row
//   static __device__ float value(const Work&, int row, int i);    i within the task
//   static __device__ i64 index(const Work&, int row, int i);      in the whole row
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
#include "candidate.cuh"
#include "reduce.cuh"
#include "sync.cuh"
#include "tagged.cuh"
#include "trace.cuh"

namespace mpk {

template <class B>
struct ArgmaxPartial {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = Candidate::scratch_bytes, partial_bytes = 0;
  static constexpr int ITEMS = B::ROWS * B::CHUNKS;

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    if constexpr (ITEMS > 1) {
      constexpr int TOGETHER = ITEMS > COMPUTE_WARPS ? 2 : 1;  // items of a warp, on their way together
      const int lane = threadIdx.x % WARP;
      for (int item = threadIdx.x / WARP; item < ITEMS; item += TOGETHER * COMPUTE_WARPS) {
        Candidate best[TOGETHER];
        look<WARP, 8>(work, item, lane, best);
        if (threadIdx.x == 0) mark(work, Mark::ready_data);
#pragma unroll
        for (int n = 0; n < TOGETHER; ++n) {
          const int own = item + n * COMPUTE_WARPS;
          best[n].join_warp();
          if (lane == 0 && own < ITEMS) keep(work, own / B::CHUNKS, own % B::CHUNKS, best[n]);
        }
      }
    } else {
      Candidate only[1];
      look<COMPUTE_THREADS, 4>(work, 0, threadIdx.x, only);
      Candidate& best = only[0];
      if (threadIdx.x == 0) mark(work, Mark::ready_data);
      best.join(scratch);
      if (threadIdx.x == 0) keep(work, 0, 0, best);
    }
  }

  // Of a chunk of a row, its first element in the whole last dimension and how many it has.
  static __device__ __forceinline__ i64 first_of(const Work& work, int item) {
    return i64(B::origin(work) + item % B::CHUNKS) * B::CHUNK;
  }
  static __device__ __forceinline__ int count_of(const Work& work, int item) {
    const i64 left = B::WIDTH - first_of(work, item);
    return item >= ITEMS ? 0 : left < B::CHUNK ? int(left) : B::CHUNK;
  }

  // The best of N chunks, COMPUTE_WARPS items apart, among the elements of one of THREADS threads; U of
  // the loads of each are in flight.
  template <int THREADS, int U, int N>
  static __device__ __forceinline__ void look(const Work& work, int item, int thread, Candidate (&best)[N]) {
    int count[N];
    u32 first[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      first[n] = u32(first_of(work, item + n * COMPUTE_WARPS));
      best[n] = {};
      count[n] = count_of(work, item + n * COMPUTE_WARPS);
    }
    if constexpr (is_same<typename B::X, void>) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int own = item + n * COMPUTE_WARPS;
#pragma unroll U
        for (int i = thread; i < count[n]; i += THREADS)
          best[n].take_next(B::x(work, own / B::CHUNKS, own % B::CHUNKS * B::CHUNK + i), first[n] + i);
      }
    } else {
      constexpr int AT_ONCE = least(ceil_div(B::CHUNK, 4 * THREADS), U);
#pragma unroll 1
      for (int from = 4 * thread; from < B::CHUNK; from += 4 * AT_ONCE * THREADS) {
        Fetched<typename B::X, 4> four[N * AT_ONCE] = {};
        const auto at = [&](int j) { return from + 4 * (j % AT_ONCE) * THREADS; };
        await_all<4, N * AT_ONCE>(
            work,
            [&](int j) {
              const int own = item + j / AT_ONCE * COMPUTE_WARPS;
              return B::four(work, own / B::CHUNKS, own % B::CHUNKS * B::CHUNK + at(j));
            },
            [&](int j) { return at(j) < count[j / AT_ONCE]; }, four);
#pragma unroll
        for (int j = 0; j < N * AT_ONCE; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (at(j) + e < count[j / AT_ONCE])
              best[j / AT_ONCE].take_next(four[j].get(e), first[j / AT_ONCE] + at(j) + e);
      }
    }
  }
  static __device__ __forceinline__ void keep(const Work& work, int row, int chunk, const Candidate& best) {
    if (i64(B::origin(work) + chunk) * B::CHUNK < B::WIDTH) B::store(work, row, chunk, of_order(best.key), best.index);
  }
};

// The best of a row's candidates from `from` on, `count` of them and never more than COUNT, among those of
// one of THREADS threads. All go round as often, so that loads of a round are under way together.
template <class B, int THREADS, int COUNT>
__device__ __forceinline__ Candidate best_candidate(const Work& work, int row, int thread, int from,
                                                    int count) {
  constexpr int AT_ONCE = least(ceil_div(COUNT, THREADS), 8);
  Candidate best;
#pragma unroll 1
  for (int first = 0; first < COUNT; first += AT_ONCE * THREADS) {
    float value[AT_ONCE];
    i64 index[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) {
      const int i = first + j * THREADS + thread;
      if (i < count) value[j] = B::value(work, row, from + i), index[j] = B::index(work, row, from + i);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      if (first + j * THREADS + thread < count) best.take(ordered(value[j]), u32(index[j]));
  }
  return best;
}

// A warp for each chunk of a row.
template <class B>
struct ArgmaxJoin {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;
  static constexpr int ITEMS = B::ROWS * B::CHUNKS;
  static constexpr int TOGETHER = ITEMS > COMPUTE_WARPS ? 2 : 1;  // items of a warp, on their way together

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    const int lane = threadIdx.x % WARP;
#pragma unroll 1
    for (int item = threadIdx.x / WARP; item < ITEMS; item += TOGETHER * COMPUTE_WARPS) {
      Candidate best[TOGETHER];
#pragma unroll
      for (int n = 0; n < TOGETHER; ++n) {
        const int own = item + n * COMPUTE_WARPS;
        best[n] = best_candidate<B, WARP, B::CHUNK>(work, own / B::CHUNKS, lane, own % B::CHUNKS * B::CHUNK,
                                                    count_of(work, own));
      }
      if (threadIdx.x == 0) mark(work, Mark::ready_data);
#pragma unroll
      for (int n = 0; n < TOGETHER; ++n) {
        const int own = item + n * COMPUTE_WARPS;
        best[n].join_warp();
        if (lane == 0 && count_of(work, own) > 0)
          B::store(work, own / B::CHUNKS, own % B::CHUNKS, of_order(best[n].key), best[n].index);
      }
    }
  }
  // Candidates of an item that there are; 0 of one that is not there.
  static __device__ __forceinline__ int count_of(const Work& work, int item) {
    const int left = B::COUNT - (B::origin(work) + item % B::CHUNKS) * B::CHUNK;
    return item >= ITEMS ? 0 : least(left, B::CHUNK);
  }
};

// What stands where a lane's sequences get their tokens, which no task of the step changes before: asked
// for first, because it comes from far. Of whom there are no more than a warp has lanes, else when needed.
template <class B>
struct KnownTokens {
  i64 known = -1;

  static constexpr bool ALL = B::SEQUENCES <= WARP;
  static __device__ __forceinline__ bool exists(i64 place) { return place >= 0 && place < B::capacity; }
  static __device__ __forceinline__ i64* sequence(const Work& work, int number) {
    return B::sequence(work) + number * B::capacity;
  }
  __device__ __forceinline__ explicit KnownTokens(const Work& work) {
    const i64 place = work.position + B::T;
    if (ALL && threadIdx.x < B::SEQUENCES && exists(place)) known = load(sequence(work, threadIdx.x) + place);
  }
  __device__ __forceinline__ i64 at(const i64* place) const { return ALL ? known : load(place); }
};

// Puts a token after the step's last one unless it is known; whether the sequence ends with it. An ended
// sequence that is not the only one has -2 where its next token would go.
template <class B>
__device__ __forceinline__ bool append_token(const Work& work, const KnownTokens<B>& before, int sequence,
                                             i64 token) {
  const i64 place = work.position + B::T;
  if (!before.exists(place)) return false;
  i64* tokens = before.sequence(work, sequence);
  const i64 known = before.at(tokens + place);
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

// A token for each sequence, chosen(sequence); asks for a stop when all have ended. The first warp.
template <class B, class Chosen>
__device__ __forceinline__ void append_tokens(const Work& work, const LaunchArgs& args,
                                              const KnownTokens<B>& before, Chosen chosen) {
  bool all = true;
  for (int sequence = threadIdx.x; sequence < B::SEQUENCES; sequence += WARP)
    all = append_token<B>(work, before, sequence, chosen(sequence)) && all;
  all = __all_sync(0xffffffffu, all);
  if (threadIdx.x == 0 && all) {
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
    if constexpr (B::append) {
      const KnownTokens<B> before(work);
      const i64* const chosen = choose(work, scratch);
      constexpr int EACH = B::ROWS / B::SEQUENCES;
      if (threadIdx.x < WARP)
        append_tokens<B>(work, args, before, [&](int sequence) { return chosen[(sequence + 1) * EACH - 1]; });
    } else {
      choose(work, scratch);
    }
  }

  // The best of each row, stored; for all threads.
  static __device__ __forceinline__ const i64* choose(const Work& work, char* scratch) {
    i64* const chosen = reinterpret_cast<i64*>(scratch);
    if constexpr (B::ROWS == 1) {
      Candidate best = look<COMPUTE_THREADS>(work, 0, threadIdx.x);
      best.join(scratch);
      compute_sync();
      if (threadIdx.x == 0) B::store(work, 0, best.index), chosen[0] = best.index;
    } else {
      const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
      for (int first = 0; first < B::ROWS; first += ROWS_AT_ONCE * COMPUTE_WARPS) {
        Candidate best[ROWS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i)
          best[i] = look<WARP>(work, least(first + warp + i * COMPUTE_WARPS, B::ROWS - 1), lane);
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; ++i) {
          const int row = first + warp + i * COMPUTE_WARPS;
          best[i].join_warp();
          if (lane != 0 || row >= B::ROWS) continue;
          B::store(work, row, best[i].index);
          chosen[row] = best[i].index;
        }
      }
    }
    compute_sync();
    return chosen;
  }
  static constexpr int ROWS_AT_ONCE = B::ROWS > COMPUTE_WARPS ? 2 : 1;  // of a warp, on their way together

  static __device__ __forceinline__ void tell(const Work& work, const LaunchArgs& args, int lane) {
    if constexpr (B::append) tell_tokens<B>(work, args, lane);
  }

  template <int THREADS>
  static __device__ __forceinline__ Candidate look(const Work& work, int row, int thread) {
    return best_candidate<B, THREADS, B::COUNT>(work, row, thread, 0, B::COUNT);
  }
};

template <class B>
struct SequenceAppend {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs& args, char*) {
    if (threadIdx.x < WARP)
      append_tokens<B>(work, args, KnownTokens<B>(work), [&](int sequence) { return B::token(work, sequence); });
  }
  static __device__ __forceinline__ void tell(const Work& work, const LaunchArgs& args, int lane) {
    tell_tokens<B>(work, args, lane);
  }
};

}  // namespace mpk
