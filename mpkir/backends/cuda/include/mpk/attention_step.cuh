// The rows of q, k and v of a step on their way into shared memory, and of k and v into the cache: asked
// for, awaited, normed and turned, a lane for 8 elements of a row.
//
// One warp does so that has nothing else under way, or all compute warps (WARPS): a warp that waits for a
// load waits for all others that it has asked for, so who takes rows of the cache would see those of the
// step late.
#pragma once
#include "attention_products.cuh"
#include "attention_prologue.cuh"
#include "attention_shape.cuh"
#include "tagged.cuh"

namespace mpk {

// 8 neighbouring elements on their way; none where a body can only give elements one by one.
template <class X>
struct Eight : Fetched<X, 8> {};
template <>
struct Eight<void> {
  __device__ __forceinline__ bool arrived(u32) const { return true; }
};

// The rows that a lane prepares: number warp + WARPS * (row + AT_ONCE * j) of q, k, v; or only those of q,
// or of k and v.
template <class B, bool QUERIES, bool KEYS, int WARPS = COMPUTE_WARPS>
struct AttentionStep {
  using Shape = AttentionShape<B>;
  using Cache = typename B::Cache;
  using Lane = typename Shape::Lane;
  using Row = typename Shape::Row;
  using Scratch = typename Shape::Scratch;
  using QP = typename B::q_prologue;
  using KP = typename B::k_prologue;
  static constexpr int D = B::D, AT_ONCE = Shape::AT_ONCE, QUERY = Shape::QUERY;
  static constexpr int ROUNDS = ceil_div(B::G + 2, WARPS * AT_ONCE);
  static constexpr int HEADS = QUERIES ? B::G : 0, COUNT = HEADS + (KEYS ? 2 : 0);
  // Whether q and k are turned and normed alike, so that one pass over a warp's rows serves both.
  static constexpr bool SAME_TURN = QP::rotary == KP::rotary && QP::R == KP::R && QP::factor == KP::factor;
  static constexpr bool same_norm() {
    if constexpr (QP::norm && KP::norm)
      return QP::eps == KP::eps && is_same<typename QP::Scale, typename KP::Scale>;
    else return QP::norm == KP::norm;
  }
  static constexpr bool ALIKE = SAME_TURN && same_norm();
  // Whether elements are only looked at where they are used.
  static constexpr bool ONE_BY_ONE = B::polled && (is_same<typename B::Query, void> ||
                                                   is_same<typename B::Key, void> ||
                                                   is_same<typename B::Value, void>);

  // Whether rows are alike and few, so that a lane knows where its own are.
  static constexpr bool KNOWN = QUERIES && KEYS && ROUNDS <= 3 && !is_same<typename B::Query, void> &&
                                is_same<typename B::Query, typename B::Key> &&
                                is_same<typename B::Query, typename B::Value>;
  Eight<typename B::Query> q[ROUNDS];
  Eight<typename B::Key> k;
  Eight<typename B::Value> v;
  const typename B::Query* address[ROUNDS];
  HeadPrologue<B, QP> q_constants;
  HeadPrologue<B, KP> k_constants;
  int t;

  static __device__ __forceinline__ int number(const Lane& at, int j) {
    return at.warp + WARPS * (at.row + AT_ONCE * j);
  }
  static __device__ __forceinline__ bool is_query(const Lane& at, int j) {
    return QUERIES && at.holds && number(at, j) < HEADS;
  }
  // Round in which a row of k (0) or v (1) may come.
  static __device__ __forceinline__ bool has(const Lane& at, int which) {
    return KEYS && at.holds && at.warp == (HEADS + which) % WARPS &&
           at.row == (HEADS + which) / WARPS % AT_ONCE;
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
    if constexpr (KNOWN) {
#pragma unroll
      for (int j = 0; j < ROUNDS; ++j) {
        const int row = number(at, j);
        if constexpr (FIRST) {
          if (row >= COUNT || !at.holds) address[j] = nullptr;
          else if (row < HEADS) address[j] = B::q_row(work, t, row) + at.d;
          else if (row == HEADS) address[j] = B::k_row(work, t) + at.d;
          else address[j] = B::v_row(work, t) + at.d;
        }
        if (address[j] != nullptr && (FIRST || !q[j].arrived(work.tag))) {
          all = false;
          q[j].request(address[j]);
        }
      }
      return all;
    }
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
      if (at.warp + WARPS * AT_ONCE * j >= COUNT) break;
      const int head = number(at, j);
      const bool query = is_query(at, j);
      const bool key = head == HEADS && has(at, 0), value = head == HEADS + 1 && has(at, 1);
      float x[8] = {};
      if constexpr (KNOWN) {
        take_query(work, at, j, x);
      } else {
        if (query) take_query(work, at, j, x);
        if (KEYS && key) take_key(work, at, x);
        if (KEYS && value) take_value(work, at, x);
      }
      float y[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] = x[i];
      if constexpr (QUERIES && ALIKE) {
        HeadPrologue<B, QP> both = q_constants;
        if constexpr (KEYS && QP::norm) both.scale.take(k_constants.scale, key);
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
        if constexpr (Shape::MULTIPLIES) {
          AttentionProducts<B>::put_query(scratch, head, at.d, z);
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
        const Row row = Shape::packed(y);
        Shape::put(scratch.new_row(value ? 1 : 0, at.d), row);
        if constexpr (!QUERIES) put_cached(work, at, row, value, own_row);
      }
    }
  }
  static __device__ __forceinline__ void put_cached(const Work& work, const Lane& at, const Row& row,
                                                    bool value, int own_row) {
    Cache* target = (value ? B::v_cache(work) : B::k_cache(work)) + B::offset(own_row) + at.d;
    Shape::put(reinterpret_cast<u32*>(target), row);
  }
  // After prepare, at last: nobody waits for the step's own row in the cache.
  static __device__ __forceinline__ void keep(const Work& work, const Lane& at, const Scratch& scratch, int own_row) {
    const bool key = has(at, 0), value = has(at, 1);
    if (!key && !value) return;
    Row row;
    Shape::get(scratch.new_row(value ? 1 : 0, at.d), row);
    put_cached(work, at, row, value, own_row);
  }
};

}  // namespace mpk
