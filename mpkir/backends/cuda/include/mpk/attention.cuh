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
//     using Scale;                                                 of the norm weight, or void
//     static __device__ const Scale* scale_row(const Work&);       D elements, aligned to 8 of them
//     static __device__ float scale(const Work&, int d);           one by one, for void
//     static constexpr mpk::Rotary rotary; static constexpr int R; static constexpr float factor;
//     static __device__ const float* inv_freq(const Work&);
//   };
//   static __device__ void store(const Work&, int t, int g, int d, float y);            !split
//   ..                                        the other chunks (attention_parts.cuh)    joins
//   static __device__ void store_acc(const Work&, int t, int g, int d, float y);        split
//   static __device__ void store_stats(const Work&, int t, int g, int i, float y);      {top, sum}
//
// The task that has a step's position writes its key and value into the cache. A task none of whose
// rows is of a step's position or an earlier one stores no acc; nobody reads it.
//
// Cache rows come from far, so the loader, which is ahead of the compute warps, asks for the first of
// them into L2, and the compute warps for those further on as they go. First q, k and v of the step are
// asked for, then what is there before they are (cache rows, norm weights, frequencies), so that asking
// again does not wait for that. Then norm and rotary in registers, a lane for 8 elements; one barrier;
// rows of the cache with a running softmax in each warp, on tensor cores if they are bf16
// (attention_products.cuh); one barrier; the warps' sums are joined where they are stored.
#pragma once
#include "abi.cuh"
#include "attention_parts.cuh"
#include "attention_products.cuh"
#include "reduce.cuh"
#include "rotary.cuh"
#include "tagged.cuh"
#include "trace.cuh"

#ifndef MPK_CACHE_AHEAD
#define MPK_CACHE_AHEAD 65536  // bytes of keys and values that a task asks for before it reads them
#endif

namespace mpk {

// 8 neighbouring elements on their way; none where a body can only give elements one by one.
template <class X>
struct Eight : Fetched<X, 8> {};
template <>
struct Eight<void> {
  __device__ __forceinline__ bool arrived(u32) const { return true; }
};

// What a task joins to its own rows; nothing if it does not.
template <class B, bool JOINS>
struct Others {
  __device__ __forceinline__ void ask_early(const Work&, int, bool) {}
};
template <class B>
struct Others<B, true> : AttentionParts<B, 1> {
  // Tops and sums, which those that have no rows have stored by now, as good as.
  __device__ __forceinline__ void ask_early(const Work& work, int head, bool first) {
    if (first) {
      this->row = head, this->member = 0, this->lane = threadIdx.x % 32, this->parts = B::parts(work);
      this->holds = true;
      this->template ask_stats<true>(work);
    } else {
      this->template ask_stats<false>(work);
    }
  }
};

// The rows of the cache that a lane has in flight.
template <class A, class Products, bool MULTIPLIES>
struct RowsOf {
  using type = typename A::Rows;
};
template <class A, class Products>
struct RowsOf<A, Products, true> {
  using type = typename Products::Rows;
};

template <class B>
struct Attention {
  using Cache = typename B::Cache;
  using QP = typename B::q_prologue;
  using KP = typename B::k_prologue;
  static constexpr bool streams = false;
  static constexpr int T = B::T, D = B::D, G = B::G;
  static_assert(D % 8 == 0 && D >= 8 && D <= 256, "head size is a multiple of 8 up to 256");
  static constexpr int LANES = power_of_two_from(D / 8);  // lanes that share a row
  static constexpr int AT_ONCE = 32 / LANES;              // rows a warp has at once
  // Heads are shared out to groups of warps, so that the sums of a warp's heads stay in registers;
  // each group goes over all rows.
  static constexpr int MOST = least(4, 512 / D);
  static constexpr int GROUPS = least(COMPUTE_WARPS, power_of_two_from(ceil_div(G, MOST)));
  static constexpr int GC = least(MOST, ceil_div(G, GROUPS));
  static constexpr int MEMBERS = COMPUTE_WARPS / GROUPS;
  static constexpr int STRIDE = MEMBERS * AT_ONCE;     // rows of a group at once
  static constexpr int V = 2;                          // of a lane, in one go
  static constexpr int U = sizeof(Cache) > 2 ? V : GC > 2 ? 2 * V : 3 * V;  // of a lane, in flight
  static constexpr int AHEAD = MPK_CACHE_AHEAD / (2 * D * int(sizeof(Cache)));  // rows
  // Prepared rows: G of q, then k and v.
  static constexpr int PLACES = COMPUTE_WARPS * AT_ONCE;
  static constexpr int ROUNDS = ceil_div(G + 2, PLACES);
  // Whether rows of the cache go through tensor cores.
#ifdef MPK_ATTENTION_SHUFFLES
  static constexpr bool MULTIPLIES = false;
#else
  static constexpr bool MULTIPLIES = T == 1 && is_same<Cache, bf16> && (D == 64 || D == 128) && G <= 4;
#endif
  // Floats of scratch: q rows, k and v as in the cache, per-warp (top, sum), per-warp sums (before
  // that: rows whose pairs lie in several lanes).
  static constexpr int QUERY = 8 * LANES;
  static constexpr int Q = MULTIPLIES ? G * (D + 32) : ceil_div(G, GC * GROUPS) * GC * GROUPS * QUERY;
  static constexpr int NEW = 2 * QUERY;
  static constexpr int STATS = 2 * COMPUTE_WARPS * GC, SUMS = COMPUTE_WARPS * most(GC * D, 256);
  static constexpr int scratch_bytes = 4 * (Q + NEW + STATS + SUMS);
  static constexpr int partial_bytes = 0;
  static_assert(!B::joins || (!B::split && T == 1 && D % 32 == 0), "joins columns of one token in warps");
  using OtherChunks = Others<B, B::joins>;
  static constexpr float NONE = -1e30f;  // below every score; finite, so that differences are numbers

  using Row = Vector<Cache, 8>;
  struct Rows {
    Row k[U], v[U];
  };
  struct Lane {
    int thread, warp, lane;
    int row;     // which of the rows that the warp has at once
    int d;       // first of the eight elements
    bool holds;  // whether D has them
  };
  struct Scratch {
    float *q, *stats, *sums;
    u32* fresh;  // k, v of the step as vectors of the cache
    __device__ explicit Scratch(char* p) {
      q = reinterpret_cast<float*>(p);
      fresh = reinterpret_cast<u32*>(q + Q);
      stats = q + Q + NEW;
      sums = stats + STATS;
    }
    // Element d (a multiple of 4) of head g's query: vectors of 4 such that 8 lanes that read one
    // each, 8 elements apart, meet no bank twice.
    __device__ __forceinline__ float4* query(int g, int d) const {
      return reinterpret_cast<float4*>(q + g * QUERY) + (d / 4 % 2) * LANES + d / 8;
    }
    __device__ __forceinline__ u32* new_row(int which, int d) const {
      return fresh + which * QUERY + d / 8 * (Row::BYTES / 4);
    }
  };

  // ---- q, k, v of the step ----

  // What a prologue needs besides its row, of this lane's 8 elements.
  template <class P>
  struct Constants {
    float scale[8], cosine[8], sine[8];

    __device__ __forceinline__ void fetch_scale(const Work& work, const Lane& at) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scale[i] = 1.0f;
      if constexpr (P::norm) {
        if (!at.holds) return;
        if constexpr (is_same<typename P::Scale, void>) {
#pragma unroll
          for (int i = 0; i < 8; ++i) scale[i] = P::scale(work, at.d + i);
        } else {
          load_constant_vector<typename P::Scale, 8>(P::scale_row(work) + at.d).unpack(scale);
        }
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
        for (int i = 0; i < 8; ++i) x[i] *= scale[i];
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
  // Whether q and k are turned and normed alike, so that one pass over a warp's rows serves both.
  static constexpr bool SAME_TURN = QP::rotary == KP::rotary && QP::R == KP::R && QP::factor == KP::factor;
  static constexpr bool same_norm() {
    if constexpr (QP::norm && KP::norm) return QP::eps == KP::eps;
    else return QP::norm == KP::norm;
  }
  static constexpr bool ALIKE = SAME_TURN && same_norm();
  // Whether elements are only looked at where they are used.
  static constexpr bool ONE_BY_ONE = B::polled && (is_same<typename B::Query, void> ||
                                                   is_same<typename B::Key, void> ||
                                                   is_same<typename B::Value, void>);

  // The rows of the step that a lane prepares: number warp + 8 * (row + AT_ONCE * j) of q, k, v.
  template <bool QUERIES, bool KEYS>
  struct Step {
    static constexpr int HEADS = QUERIES ? G : 0, COUNT = HEADS + (KEYS ? 2 : 0);
    Eight<typename B::Query> q[ROUNDS];
    Eight<typename B::Key> k;
    Eight<typename B::Value> v;
    Constants<QP> q_constants;
    Constants<KP> k_constants;
    int t;

    static __device__ __forceinline__ int number(const Lane& at, int j) {
      return at.warp + COMPUTE_WARPS * (at.row + AT_ONCE * j);
    }
    static __device__ __forceinline__ bool is_query(const Lane& at, int j) {
      return QUERIES && at.holds && number(at, j) < HEADS;
    }
    // Round in which a row of k (0) or v (1) may come.
    static __device__ __forceinline__ bool has(const Lane& at, int which) {
      return KEYS && at.holds && at.warp == (HEADS + which) % COMPUTE_WARPS &&
             at.row == (HEADS + which) / COMPUTE_WARPS % AT_ONCE;
    }

    __device__ __forceinline__ void fetch_constants(const Work& work, const Lane& at) {
      if constexpr (QUERIES) q_constants.fetch_frequencies(work, at);
      if constexpr (KEYS && !(ALIKE && QUERIES)) k_constants.fetch_frequencies(work, at);
      if constexpr (QUERIES) q_constants.fetch_scale(work, at);
      if constexpr (KEYS) k_constants.fetch_scale(work, at);
    }
    __device__ __forceinline__ void turn(const Work& work, const Lane& at) {
      const i64 position = work.position + t;
      if constexpr (QUERIES) q_constants.turn(at, position);
      if constexpr (KEYS && !(ALIKE && QUERIES)) k_constants.turn(at, position);
    }
    // Asks for what has not arrived, or for all; whether all has.
    template <bool FIRST>
    __device__ __forceinline__ bool ask(const Work& work, const Lane& at) {
      bool all = true;
      if constexpr (!is_same<typename B::Query, void>) {
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
          if (is_query(at, j) && (FIRST || !q[j].arrived(work.tag))) {
            all = false;
            q[j].request(B::q_row(work, t, number(at, j)) + at.d);
          }
      }
      if constexpr (!is_same<typename B::Key, void>) {
        if (has(at, 0) && (FIRST || !k.arrived(work.tag))) {
          all = false;
          k.request(B::k_row(work, t) + at.d);
        }
      }
      if constexpr (!is_same<typename B::Value, void>) {
        if (has(at, 1) && (FIRST || !v.arrived(work.tag))) {
          all = false;
          v.request(B::v_row(work, t) + at.d);
        }
      }
      return all;
    }
    // After ask<true>: every lane looks at every element of its rows, of this step.
    __device__ __forceinline__ void await(const Work& work, const Lane& at) {
      if constexpr (B::polled) {
        for (u32 polls = 1;; ++polls)
          if (ask<false>(work, at) || gives_up(work, polls)) break;
        __syncwarp();
      }
    }

    // A row's elements, read here if they could not be fetched as vectors.
    __device__ __forceinline__ void take_query(const Work& work, const Lane& at, int j, float (&x)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (is_same<typename B::Query, void>) x[i] = B::q(work, t, number(at, j), at.d + i);
        else x[i] = q[j].get(i);
      }
    }
    __device__ __forceinline__ void take_key(const Work& work, const Lane& at, float (&x)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (is_same<typename B::Key, void>) x[i] = B::k(work, t, at.d + i);
        else x[i] = k.get(i);
      }
    }
    __device__ __forceinline__ void take_value(const Work& work, const Lane& at, float (&x)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (is_same<typename B::Value, void>) x[i] = B::v(work, t, at.d + i);
        else x[i] = v.get(i);
      }
    }
    __device__ __forceinline__ void prepare(const Work& work, const Lane& at, const Scratch& scratch,
                                            bool owns, int own_row) {
      float* const pairs = scratch.sums + (at.warp * AT_ONCE + at.row) * QUERY;
#pragma unroll
      for (int j = 0; j < ROUNDS; ++j) {
        if (at.warp + COMPUTE_WARPS * AT_ONCE * j >= COUNT) break;
        const int head = number(at, j);
        const bool query = is_query(at, j);
        const bool key = head == HEADS && has(at, 0), value = head == HEADS + 1 && has(at, 1);
        float x[8] = {};
        if (query) take_query(work, at, j, x);
        if (KEYS && key) take_key(work, at, x);
        if (KEYS && value) take_value(work, at, x);
        float y[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) y[i] = x[i];
        if constexpr (QUERIES && ALIKE) {
          Constants<QP> both = q_constants;
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (KEYS && QP::norm && key) both.scale[i] = k_constants.scale[i];
          both.apply(at, y, pairs);
        } else {
          if constexpr (QUERIES) q_constants.apply(at, y, pairs);
          if constexpr (KEYS) {
            float z[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) z[i] = x[i];
            k_constants.apply(at, z, pairs);
#pragma unroll
            for (int i = 0; i < 8; ++i) y[i] = key ? z[i] : y[i];
          }
        }
        if (query) {
          float z[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) z[i] = y[i] * B::scale;
          if constexpr (MULTIPLIES) {
            AttentionProducts<Attention, B>::put_query(scratch, head, at.d, z);
          } else {
            float4 low, high;
            low.x = z[0], low.y = z[1], low.z = z[2], low.w = z[3];
            high.x = z[4], high.y = z[5], high.z = z[6], high.w = z[7];
            *scratch.query(head, at.d) = low;
            *scratch.query(head, at.d + 4) = high;
          }
        }
        if (KEYS && owns && (key || value)) {
#pragma unroll
          for (int i = 0; i < 8; ++i) y[i] = value ? x[i] : y[i];
          const Row row = packed(y);
          Cache* target = (value ? B::v_cache(work) : B::k_cache(work)) + B::offset(own_row) + at.d;
          put(reinterpret_cast<u32*>(target), row);
          put(scratch.new_row(value ? 1 : 0, at.d), row);
        }
      }
    }
  };

  static __device__ __forceinline__ Row packed(const float (&x)[8]) {
    Row row;
    if constexpr (sizeof(Cache) == 4) {
#pragma unroll
      for (int i = 0; i < 8; ++i) row.word[i] = __float_as_uint(x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        row.word[i] = u32(convert<Cache>(x[2 * i]).bits) | u32(convert<Cache>(x[2 * i + 1]).bits) << 16;
    }
    return row;
  }
  static __device__ __forceinline__ void put(u32* target, const Row& row) {
#pragma unroll
    for (int i = 0; i < Row::BYTES / 16; ++i)
      reinterpret_cast<uint4*>(target)[i] =
          make_uint4(row.word[4 * i], row.word[4 * i + 1], row.word[4 * i + 2], row.word[4 * i + 3]);
  }
  static __device__ __forceinline__ void get(const u32* source, Row& row) {
#pragma unroll
    for (int i = 0; i < Row::BYTES / 16; ++i) {
      const uint4 word = reinterpret_cast<const uint4*>(source)[i];
      row.word[4 * i] = word.x, row.word[4 * i + 1] = word.y;
      row.word[4 * i + 2] = word.z, row.word[4 * i + 3] = word.w;
    }
  }

  // ---- rows of the cache ----

  static __device__ __forceinline__ int place(const Lane& at, int from, int u) {
    return from + u * STRIDE + at.warp % MEMBERS * AT_ONCE + at.row;
  }
  // Rows from slot FIRST on, those below `cached` from the cache.
  template <int FIRST, int COUNT>
  static __device__ __forceinline__ void fetch(const Work& work, const Lane& at, int from, int cached,
                                               Rows& rows) {
    const Cache *const k = B::k_cache(work) + at.d, *const v = B::v_cache(work) + at.d;
#pragma unroll
    for (int u = FIRST; u < FIRST + COUNT; ++u) {
      const int row = place(at, from, u);
      if (at.holds && row < cached) {
        rows.k[u] = load_vector<Cache, 8>(k + B::offset(row));
        rows.v[u] = load_vector<Cache, 8>(v + B::offset(row));
      } else {
        rows.k[u].clear();
        rows.v[u].clear();
      }
    }
  }

  // Asks for rows [from, to) into L2; a warp.
  static __device__ __forceinline__ void ask_ahead(const Work& work, int from, int to, int lane) {
#pragma unroll 1
    for (int run = from / B::RUN + lane; run * B::RUN < to; run += 32) {
      const int first = most(run * B::RUN, from), last = least(run * B::RUN + B::RUN, to);
      const int bytes = (last - first) * (D * int(sizeof(Cache)));
      fetch_to_l2(B::k_cache(work) + B::offset(first), bytes);
      fetch_to_l2(B::v_cache(work) + B::offset(first), bytes);
    }
  }
  // The first rows of the task, by the loader.
  static __device__ __forceinline__ void look_ahead(const Work& work, int lane) {
    if constexpr (AHEAD > 0) {
      const Range range = range_of(work, 0);
      const int cached = B::rows_before(work, work.position);
      ask_ahead(work, range.from, least(cached, range.from + AHEAD), lane);
    }
  }

  struct State {
    float sum[GC][8], top[GC], weight[GC];
  };
  static __device__ __forceinline__ float capped(float dot) {
    if constexpr (B::soft_cap > 0.0f) dot = B::soft_cap * tanhf(dot / B::soft_cap);
    return dot;
  }
  static __device__ __forceinline__ float score(float dot) { return capped(warp_join<Add, LANES>(dot)); }
  // Takes the V rows of slots FIRST .. (those with valid[u]) into the running softmax.
  template <int FIRST>
  static __device__ __forceinline__ void take(State& s, const Lane& at, const Scratch& scratch, int head,
                                              const Rows& rows, const bool (&valid)[V]) {
    float p[V][GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      const float4 low = *scratch.query(head + g, at.d), high = *scratch.query(head + g, at.d + 4);
      const float q[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int u = 0; u < V; ++u) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(q[i], rows.k[FIRST + u].get(i), dot);
        p[u][g] = at.holds ? dot : 0.0f;
      }
    }
#pragma unroll
    for (int g = 0; g < GC; ++g)
#pragma unroll
      for (int u = 0; u < V; ++u) {
        const float dot = score(p[u][g]);
        p[u][g] = valid[u] ? dot : -infinity();
      }
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g];
#pragma unroll
      for (int u = 0; u < V; ++u) top = fmaxf(top, p[u][g]);
      const float keep = __expf(s.top[g] - top);
      s.top[g] = top;
      s.weight[g] *= keep;
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
#pragma unroll
      for (int u = 0; u < V; ++u) {
        const float e = __expf(p[u][g] - top);
        s.weight[g] += e;
#pragma unroll
        for (int i = 0; i < 8; ++i) s.sum[g][i] = fmaf(e, rows.v[FIRST + u].get(i), s.sum[g][i]);
      }
    }
  }

  struct Range {
    int from, to;  // the rows that a token attends to
    int cached;    // those below are in the cache, the rest in shared memory
  };
  // One go: V rows of each lane, and then their slots are filled again.
  template <int FIRST>
  static __device__ __forceinline__ void go(const Work& work, const Lane& at, const Scratch& scratch, int head,
                                            const Range& range, int base, State& s, Rows& rows) {
    bool valid[V];
#pragma unroll
    for (int u = 0; u < V; ++u) {
      const int row = place(at, base, FIRST + u);
      valid[u] = row < range.to;
      if (T == 1 && row == range.cached && valid[u] && at.holds) {
        get(scratch.new_row(0, at.d), rows.k[FIRST + u]);
        get(scratch.new_row(1, at.d), rows.v[FIRST + u]);
      }
    }
    take<FIRST>(s, at, scratch, head, rows, valid);
    if (base + U * STRIDE < range.to) fetch<FIRST, V>(work, at, base + U * STRIDE, range.cached, rows);
  }
  template <int FIRST>
  static __device__ __forceinline__ void round(const Work& work, const Lane& at, const Scratch& scratch,
                                               int head, const Range& range, int base, State& s,
                                               Rows& rows) {
    if constexpr (FIRST < U) {
      if (base + FIRST * STRIDE >= range.to) return;
      go<FIRST>(work, at, scratch, head, range, base, s, rows);
      round<FIRST + V>(work, at, scratch, head, range, base, s, rows);
    }
  }

  // Sums over the rows that a warp has at once, half of the elements given away at each step; `first`
  // becomes the number of the first element that the lane has then, of COUNT.
  template <int COUNT, int OFFSET>
  static __device__ __forceinline__ void join_rows(const float (&x)[COUNT], int lane, float* target,
                                                   int first, bool writes) {
    if constexpr (OFFSET == 32) {
      if (!writes) return;
#pragma unroll
      for (int i = 0; i < COUNT; ++i) target[first + i] = x[i];
    } else if constexpr (COUNT > 1) {
      const bool upper = lane & OFFSET;
      float half[COUNT / 2];
#pragma unroll
      for (int i = 0; i < COUNT / 2; ++i) {
        const float give = upper ? x[i] : x[i + COUNT / 2], keep = upper ? x[i + COUNT / 2] : x[i];
        half[i] = keep + __shfl_xor_sync(0xffffffffu, give, OFFSET);
      }
      join_rows<COUNT / 2, 2 * OFFSET>(half, lane, target, first + (upper ? COUNT / 2 : 0), writes);
    } else {
      const float sum[1] = {x[0] + __shfl_xor_sync(0xffffffffu, x[0], OFFSET)};
      join_rows<1, 2 * OFFSET>(sum, lane, target, first, writes && !(lane & OFFSET));
    }
  }
  static __device__ __forceinline__ void hand_over(const Lane& at, const Scratch& scratch, State& s) {
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float top = s.top[g], weight = s.weight[g];
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      const float keep = __expf(s.top[g] - top);
      weight *= keep;
#pragma unroll
      for (int offset = LANES; offset < 32; offset *= 2)
        weight += __shfl_xor_sync(0xffffffffu, weight, offset);
#pragma unroll
      for (int i = 0; i < 8; ++i) s.sum[g][i] *= keep;
      join_rows<8, LANES>(s.sum[g], at.lane, scratch.sums + (at.warp * GC + g) * D + at.d, 0, at.holds);
      if (at.lane == 0) {
        float* stats = scratch.stats + (at.warp * GC + g) * 2;
        stats[0] = top, stats[1] = weight;
      }
    }
  }
  // Joins the warps of each group and stores heads [first, first + GROUPS * GC).
  static __device__ __forceinline__ void write(const Work& work, const Lane& at, const Scratch& scratch, int t,
                                               int first, OtherChunks& others) {
    for (int e = at.thread; e < GROUPS * GC * D; e += COMPUTE_THREADS) {
      const int slot = e / D, d = e % D, head = first + slot;
      if (head >= G) continue;
      const int warp = slot / GC * MEMBERS, g = slot % GC;
      if constexpr (B::joins) {
        if (first > 0 || e >= COMPUTE_THREADS) others.ask_early(work, head, true);
        others.d = d;
        others.template ask_acc<true>(work, 0);
      }
      float top = NONE, total = 0.0f, y = 0.0f;
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) top = fmaxf(top, scratch.stats[((warp + m) * GC + g) * 2]);
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m) {
        const float* stats = scratch.stats + ((warp + m) * GC + g) * 2;
        const float keep = __expf(stats[0] - top);
        total = fmaf(stats[1], keep, total);
        y = fmaf(scratch.sums[((warp + m) * GC + g) * D + d], keep, y);
      }
      if constexpr (B::split) {
        B::store_acc(work, t, head, d, y);
        if (d == 0) {
          B::store_stats(work, t, head, 0, total > 0.0f || total != total ? top : -infinity());
          B::store_stats(work, t, head, 1, total);
        }
      } else {
        if constexpr (B::joins) {
          others.await(work);
          others.join(work, top, total, y);
        }
        B::store(work, t, head, d, y / total);
      }
    }
  }
  // Of a token that attends to none of the task's rows.
  static __device__ __forceinline__ void write_empty(const Work& work, const Lane& at, int t) {
    if constexpr (B::split) {
      for (int e = at.thread; e < 2 * G; e += COMPUTE_THREADS)
        B::store_stats(work, t, e / 2, e % 2, e % 2 == 0 ? -infinity() : 0.0f);
      if (B::rows_before(work, work.position + T) == 0) return;
    }
    for (int e = at.thread; e < G * D; e += COMPUTE_THREADS) {
      if constexpr (B::split) B::store_acc(work, t, e / D, e % D, 0.0f);
      else B::store(work, t, e / D, e % D, 0.0f);
    }
  }

  static __device__ __forceinline__ Range range_of(const Work& work, int t) {
    const i64 own = work.position + t;
    Range range{0, B::rows_before(work, own + 1), 0};
    if (B::WINDOW > 0 && own + 1 > B::WINDOW) range.from = B::rows_before(work, own + 1 - B::WINDOW);
    range.cached = T == 1 ? B::rows_before(work, own) : range.to;
    return range;
  }
  // All rows of the range, for every head; `rows` has the first of them.
  static __device__ __forceinline__ void attend(const Work& work, const Lane& at, const Scratch& scratch,
                                                int t, const Range& range, Rows& rows) {
    OtherChunks others{};
    if (at.thread / D < least(G, GROUPS * GC)) others.ask_early(work, at.thread / D, true);
#pragma unroll 1
    for (int first = 0; first < G; first += GROUPS * GC) {
      if (first > 0) {
        compute_sync();
        fetch<0, U>(work, at, range.from, range.cached, rows);
      }
      const int head = first + at.warp / MEMBERS * GC;
      State s;
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        s.top[g] = NONE, s.weight[g] = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) s.sum[g][i] = 0.0f;
      }
#pragma unroll 1
      for (int base = range.from; base < range.to; base += U * STRIDE) {
        if (AHEAD > 0 && first == 0 && at.warp == COMPUTE_WARPS - 1 && base + AHEAD < range.cached)
          ask_ahead(work, base + AHEAD, least(base + AHEAD + U * STRIDE, range.cached), at.lane);
        round<0>(work, at, scratch, head, range, base, s, rows);
      }
      hand_over(at, scratch, s);
      if (first == 0 && at.thread / D < least(G, GROUPS * GC)) others.ask_early(work, at.thread / D, false);
      compute_sync();
      write(work, at, scratch, t, first, others);
    }
  }

  static __device__ __forceinline__ void one_token(const Work& work, const Lane& at, const Scratch& scratch) {
    const Range range = range_of(work, 0);
    const bool empty = !B::joins && range.from >= range.to;
    if (!B::polled && empty) return write_empty(work, at, 0);
    // Set, because a register that is loaded on some paths only lives through all tasks.
    using Products = AttentionProducts<Attention, B>;
    typename RowsOf<Attention, Products, MULTIPLIES>::type rows{};
    Step<true, true> step{};
    step.t = 0;
    // First what comes last: what is missing then is asked for again while angles are computed.
    step.template ask<true>(work, at);
    const bool prepares = !empty && at.warp < step.COUNT;
    if (prepares) step.fetch_constants(work, at);
    if (!empty) {
      if constexpr (MULTIPLIES) Products::fetch(work, at, range.from, range.cached, rows);
      else fetch<0, U>(work, at, range.from, range.cached, rows);
    }
    if constexpr (B::polled) step.template ask<false>(work, at);
    if (prepares) step.turn(work, at);
    step.await(work, at);
    if (empty) {
      if constexpr (ONE_BY_ONE) step.prepare(work, at, scratch, false, 0);
      compute_sync();
      return write_empty(work, at, 0);
    }
    step.prepare(work, at, scratch, range.to > range.cached, range.cached);
    compute_sync();
    if (at.thread == 0) mark(work, Mark::ready_data);
    if constexpr (MULTIPLIES) {
      OtherChunks others{};
      if (at.thread / D < G) others.ask_early(work, at.thread / D, true);
      Products::attend(work, at, scratch, range, rows);
      if (at.thread / D < G) others.ask_early(work, at.thread / D, false);
      compute_sync();
      write(work, at, scratch, 0, 0, others);
    } else {
      attend(work, at, scratch, 0, range, rows);
    }
  }

  // Several tokens: their keys and values first, so that all that is attended to is in the cache.
  static __device__ __forceinline__ void tokens(const Work& work, const Lane& at, const Scratch& scratch) {
#pragma unroll 1
    for (int t = 0; t < T; ++t) {
      const int own = B::rows_before(work, work.position + t);
      Step<false, true> step{};
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
      const Range range = range_of(work, t);
      const bool empty = range.from >= range.to;
      Step<true, false> step{};
      step.t = t;
      step.fetch_constants(work, at);
      step.template ask<true>(work, at);
      step.turn(work, at);
      step.await(work, at);
      if (empty) {
        if constexpr (ONE_BY_ONE) step.prepare(work, at, scratch, false, 0);
        compute_sync();
        write_empty(work, at, t);
        continue;
      }
      Rows rows;
      fetch<0, U>(work, at, range.from, range.cached, rows);
      step.prepare(work, at, scratch, false, 0);
      compute_sync();
      attend(work, at, scratch, t, range, rows);
      compute_sync();
    }
  }

  static __device__ void run(const Work& work, const LaunchArgs&, char* memory) {
    const Scratch scratch(memory);
    Lane at;
    at.thread = threadIdx.x, at.warp = at.thread / 32, at.lane = at.thread % 32;
    at.row = at.lane / LANES, at.d = at.lane % LANES * 8, at.holds = at.d < D;
    if constexpr (T == 1) one_token(work, at, scratch);
    else tokens(work, at, scratch);
  }
};

}  // namespace mpk
