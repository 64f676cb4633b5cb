// Decode attention of the G query heads of one key head over a task's rows of the cache.
//
// A printed body says
//   static constexpr int T, D, G;             tokens a step, head size (8..256, a multiple of 8), ...
//   static constexpr int WINDOW;              0 = none: attends to positions > own - WINDOW
//   static constexpr float scale, soft_cap;   soft_cap 0 = none
//   static constexpr bool split;              partials, or the final result
//   static constexpr bool joins;              joined with other chunks (attention_parts.cuh); T is 1
//   static constexpr bool polled;             whether q, k, v are (partly) flagged
//   using Cache = mpk::bf16;
//   static __device__ int rows_before(const Work&, i64 position);  how many of the task's rows are of
//                                             earlier positions; rows are in order of positions
//   static __device__ Cache* k_cache(const Work&);                 the task's first row
//   static __device__ Cache* v_cache(const Work&);
//   static __device__ int offset(int row);                         of its rows; 16-byte aligned
//   static constexpr int RUN;                 rows from a multiple of it that lie side by side
//   using Query, Key, Value;                  element types as they are in memory, or void
//   static __device__ const Query* q_row(const Work&, int t, int g);   D elements, aligned to 8 of them
//   static __device__ const Key* k_row(const Work&, int t);            (not for void)
//   static __device__ const Value* v_row(const Work&, int t);
//   static __device__ float q(const Work&, int t, int g, int d);       elements one by one, for void
//   static __device__ float k(const Work&, int t, int d);
//   static __device__ float v(const Work&, int t, int d);
//   struct q_prologue, k_prologue {
//     static constexpr bool norm; static constexpr float eps;      rms over D, then rotary
//     using Scale = mpk::bf16;                                     and more of the norm's weights: norm_scales.cuh
//     static constexpr mpk::Rotary rotary; static constexpr int R; static constexpr float factor;
//     static __device__ const float* inv_freq(const Work&);
//   };
//   static __device__ void store(const Work&, int t, int g, int d, float y);            !split
//   ..                                        the other chunks (attention_parts.cuh)    joins
//   static __device__ void store_acc(const Work&, int t, int g, int d, float y);        split
//   static __device__ void store_stats(const Work&, int t, int g, int i, float y);      {top, sum}
//
// The task that has a step's position writes its key and value into the cache. A task none of whose
// rows is of a step's position or an earlier one stores nothing; nobody reads it.
//
// Cache rows come from far, so the loader, which is ahead of the compute warps, asks for the first of
// them into L2, and the compute warps for those further on as they go; or the loader copies all of them
// (attention_stages.cuh). q, k and v of the step are awaited, normed and turned by the publisher, which
// has nothing else to do then, while the compute warps fetch rows of the cache; where there is none, or
// are more rows, by the compute warps. Then rows of the cache with a running softmax in each warp, on
// tensor cores if they are bf16 (attention_products.cuh); one barrier; the warps' sums are joined where
// they are stored.
#pragma once
#include "abi.cuh"
#include "attention_products.cuh"
#include "attention_rows.cuh"
#include "attention_shape.cuh"
#include "attention_stages.cuh"
#include "attention_step.cuh"
#include "attention_sums.cuh"
#include "trace.cuh"

#ifndef MPK_ROUNDS_AHEAD
#define MPK_ROUNDS_AHEAD 2  // rows of q, k and v that the publisher prepares, in goes of one warp
#endif

namespace mpk {

// What takes the rows of a cache of one token.
template <class B, bool MULTIPLIES>
struct RowsOf {
  using type = typename AttentionRows<B>::Rows;
};
template <class B>
struct RowsOf<B, true> {
  using type = typename AttentionProducts<B>::Rows;
};

template <class B>
struct Attention {
  using Shape = AttentionShape<B>;
  using Lane = typename Shape::Lane;
  using OtherChunks = typename AttentionSums<B>::OtherChunks;
  using Range = typename Shape::Range;
  using Scratch = typename Shape::Scratch;
  using ByShuffles = AttentionRows<B>;
  using Products = AttentionProducts<B>;
  using Sums = AttentionSums<B>;
  static constexpr bool streams = false;
  static constexpr int T = B::T, D = B::D, G = B::G, U = Shape::U;
  static constexpr int LANES = Shape::LANES, GROUPS = Shape::GROUPS, GC = Shape::GC, AHEAD = Shape::AHEAD;
  static constexpr int scratch_bytes = Shape::scratch_bytes, partial_bytes = 0;
  static constexpr bool MULTIPLIES = Shape::MULTIPLIES;

  // The first rows of the task, by the loader.
  static __device__ __forceinline__ void look_ahead(const Work& work, int lane) {
    if constexpr (AHEAD > 0) {
      const Range range = Shape::range_of(work, 0);
      const int cached = B::rows_before(work, work.position);
      Shape::ask_ahead(work, range.from, least(cached, range.from + AHEAD), lane);
    }
  }

  // All rows of the range, for every head; `rows` has the first of them.
  static __device__ __forceinline__ void attend(const Work& work, const Lane& at, const Scratch& scratch,
                                                int t, const Range& range, typename ByShuffles::Rows& rows) {
    OtherChunks others{};
    if (at.thread / D < least(G, GROUPS * GC)) others.ask_early(work, at.thread / D, true);
#pragma unroll 1
    for (int first = 0; first < G; first += GROUPS * GC) {
      if (first > 0) {
        compute_sync();
        ByShuffles::template fetch<0, U>(work, at, range.from, range.cached, rows);
      }
      const int head = first + at.warp / Shape::MEMBERS * GC;
      ByShuffles::attend(work, at, scratch, head, range, first == 0, rows);
      if (first == 0 && at.thread / D < least(G, GROUPS * GC)) others.ask_early(work, at.thread / D, false);
      compute_sync();
      Sums::write(work, at, scratch, t, first, others);
    }
  }

  // q, k and v of the step into shared memory, by as many warps.
  template <int WARPS>
  struct Preparing {
    using Step = AttentionStep<B, true, true, WARPS>;
    Step step{};
    bool empty, prepares;

    __device__ __forceinline__ void ask(const Work& work, const Lane& at, const Range& range) {
      step.t = 0;
      empty = is_empty(range);
      prepares = !empty && at.warp < Step::COUNT;
      // First what comes last: what is missing then is asked for again while angles are computed.
      step.template ask<true>(work, at);
      if (prepares) step.fetch_constants(work, at);
    }
    __device__ __forceinline__ void finish(const Work& work, const Lane& at, const Scratch& scratch,
                                           const Range& range) {
      if constexpr (B::polled) step.template ask<false>(work, at);
      if (prepares) step.turn(work, at);
      step.await(work, at);
      if (!empty) step.prepare(work, at, scratch, range.to > range.cached, range.cached);
      else if constexpr (Step::ONE_BY_ONE) step.prepare(work, at, scratch, false, 0);
    }
  };
  static __device__ __forceinline__ bool is_empty(const Range& range) {
    return !B::joins && range.from >= range.to;
  }
  // Nobody looks for what a task beyond the step's position has; it looks for nothing either.
  static __device__ __forceinline__ bool looks(const Work& work, const Range& range) {
    return !is_empty(range) || (B::polled && B::rows_before(work, work.position + 1) > 0);
  }
  // By another warp than those that compute, behind all that the task needs and all tasks before it; of
  // more rows than this the one warp would take longer than it saves.
  static constexpr bool is_prepared =
      T == 1 && B::polled && AttentionStep<B, true, true, 1>::ROUNDS <= MPK_ROUNDS_AHEAD;
  static __device__ __forceinline__ void prepare(const Work& work, char* memory, int lane) {
    const Range range = Shape::range_of(work, 0);
    if (!looks(work, range)) return;
    const Lane at(lane);
    Preparing<1> preparing;
    preparing.ask(work, at, range);
    preparing.finish(work, at, Scratch(memory), range);
  }

  // `prepared` waits for who prepares, or is nullptr; `source`: where rows come from, if by products.
  template <class Prepared, class Source>
  static __device__ __forceinline__ void one_token(const Work& work, const Lane& at, const Scratch& scratch,
                                                   Prepared prepared, Source source) {
    constexpr bool PREPARES = is_same<Prepared, decltype(nullptr)>;
    const Range range = Shape::range_of(work, 0);
    if (PREPARES && !looks(work, range)) return Sums::write_empty(work, at, 0);
    // Set, because a register that is loaded on some paths only lives through all tasks.
    typename RowsOf<B, MULTIPLIES>::type rows{};
    Preparing<COMPUTE_WARPS> preparing;
    if constexpr (PREPARES) preparing.ask(work, at, range);
    if (!is_empty(range)) {
      if constexpr (MULTIPLIES) Products::fetch(work, source, at, range.from, range.cached, rows);
      else ByShuffles::template fetch<0, U>(work, at, range.from, range.cached, rows);
    }
    if constexpr (PREPARES) {
      preparing.finish(work, at, scratch, range);
      compute_sync();
    } else {
      prepared();
    }
    if (is_empty(range)) return Sums::write_empty(work, at, 0);
    if (at.thread == 0) mark(work, Mark::ready_data);
    if constexpr (MULTIPLIES) {
      OtherChunks others{};
      if (at.thread / D < G) others.ask_early(work, at.thread / D, true);
      Products::attend(work, at, scratch, range, source, rows);
      if (at.thread / D < G) others.ask_early(work, at.thread / D, false);
      compute_sync();
      Sums::write(work, at, scratch, 0, 0, others);
    } else {
      attend(work, at, scratch, 0, range, rows);
    }
    if (range.to > range.cached) {
      AttentionStep<B, true, true>::keep(work, at, scratch, range.cached);
      // The copy engine is to read it a step later.
      if constexpr (Source::staged) finish_writes();
    }
  }

  // Several tokens: their keys and values first, so that all that is attended to is in the cache.
  static __device__ __forceinline__ void tokens(const Work& work, const Lane& at, const Scratch& scratch) {
#pragma unroll 1
    for (int t = 0; t < T; ++t) {
      const int own = B::rows_before(work, work.position + t);
      AttentionStep<B, false, true> step{};
      step.t = t;
      step.fetch_constants(work, at);
      step.template ask<true>(work, at);
      step.turn(work, at);
      step.await(work, at);
      step.prepare(work, at, scratch, B::rows_before(work, work.position + t + 1) > own, own);
    }
    compute_sync();
#pragma unroll 1
    for (int t = 0; t < T; ++t) {
      const Range range = Shape::range_of(work, t);
      const bool empty = range.from >= range.to;
      AttentionStep<B, true, false> step{};
      step.t = t;
      step.fetch_constants(work, at);
      step.template ask<true>(work, at);
      step.turn(work, at);
      step.await(work, at);
      if (empty) {
        if constexpr (step.ONE_BY_ONE) step.prepare(work, at, scratch, false, 0);
        compute_sync();
        Sums::write_empty(work, at, t);
        continue;
      }
      typename ByShuffles::Rows rows;
      ByShuffles::template fetch<0, U>(work, at, range.from, range.cached, rows);
      step.prepare(work, at, scratch, false, 0);
      compute_sync();
      attend(work, at, scratch, t, range, rows);
      compute_sync();
    }
  }

  static __device__ void run(const Work& work, const LaunchArgs&, char* memory) {
    const Scratch scratch(memory);
    const Lane at(threadIdx.x);
    if constexpr (T == 1) one_token(work, at, scratch, nullptr, CachedRows<B>{});
    else tokens(work, at, scratch);
  }
  template <class Prepared>
  static __device__ void run_prepared(const Work& work, const LaunchArgs&, char* memory, Prepared prepared) {
    one_token(work, Lane(threadIdx.x), Scratch(memory), prepared, CachedRows<B>{});
  }
  // With rows of the cache from the ring, of `role`; `prepared` as above.
  using stages = AttentionStages<B>;
  template <class Prepared, class C>
  static __device__ void run_staged(const Work& work, const LaunchArgs&, char* memory, Prepared prepared, C& role) {
    one_token(work, Lane(threadIdx.x), Scratch(memory), prepared, StagedRows<B, C>{role});
  }
};

}  // namespace mpk
