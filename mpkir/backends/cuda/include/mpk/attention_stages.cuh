// A task's rows of the cache through the ring: they are known long before q is, so the loader copies them
// like weights, and compute warps find them in shared memory when q comes.
//
// A stage is ROWS neighbouring rows of keys, and half a slot further on those of values. What a step writes
// is never among its own stages; what the step before wrote is, so the loader begins a task when that of the
// step before is done (runtime.cuh).
#pragma once
#include "abi.cuh"
#include "attention_shape.cuh"
#include "runtime.cuh"

namespace mpk {

// Rows straight out of the cache, as a source for attention_products.cuh: a lane's part of each.
template <class B>
struct CachedRows {
  using Cache = typename B::Cache;
  using Row = Vector<Cache, 8>;
  static constexpr bool staged = false;
  const Cache *k, *v;

  // That part begins so many elements behind the first of a row.
  __device__ __forceinline__ void open(const Work& work, int of_key, int of_value) {
    k = B::k_cache(work) + of_key;
    v = B::v_cache(work) + of_value;
  }
  // Rows from `base` on are looked at, till `end`.
  __device__ __forceinline__ void begin(int, int) {}
  __device__ __forceinline__ void end() {}
  __device__ __forceinline__ const Cache* key(int row) const { return k + B::offset(row); }
  __device__ __forceinline__ const Cache* value(int row) const { return v + B::offset(row); }
  static __device__ __forceinline__ Row get(const Cache* p) { return load_vector<Cache, 8>(p); }
};

// B: a printed body of attention.cuh.
template <class B>
struct AttentionStages {
  using Shape = AttentionShape<B>;
  static constexpr int ROW = B::D * int(sizeof(bf16)), ROWS = SLOT / 2 / ROW;
  // Whether a task's rows can come so: all of its rows of earlier steps, each stage's side by side.
  static constexpr bool possible = Shape::MULTIPLIES && B::WINDOW == 0 && B::RUN % ROWS == 0;

  template <class L>
  static __device__ __forceinline__ bool load(L& loader, const Work& work) {
    const int cached = B::rows_before(work, work.position);
#pragma unroll 1
    for (int row = 0; row < cached; row += ROWS) {
      const int bytes = least(ROWS, cached - row) * ROW, offset = B::offset(row);
      if (!loader.issue_both(reinterpret_cast<const char*>(B::k_cache(work) + offset),
                             reinterpret_cast<const char*>(B::v_cache(work) + offset), bytes))
        return false;
    }
    return true;
  }
};

// Rows in the stages that come next, of the compute warps' `role`.
template <class B, class C>
struct StagedRows {
  using Row = Vector<bf16, 8>;
  static constexpr bool staged = true;
  static constexpr int ROWS = AttentionStages<B>::ROWS, AT_ONCE = 16 * COMPUTE_WARPS / ROWS;
  C& role;
  int of_key, of_value, base, count;

  __device__ __forceinline__ void open(const Work&, int key, int value) { of_key = key, of_value = value; }
  // Those from `base` on, a go of compute warps of them, are looked at, till `end`.
  __device__ __forceinline__ void begin(int first, int cached) {
    base = first;
    count = most(0, least(AT_ONCE, ceil_div(cached - first, ROWS)));
    role.wait_stages(count);
  }
  __device__ __forceinline__ void end() { role.release_stages(count); }
  __device__ __forceinline__ const bf16* row_of(int row, int part) const {
    return reinterpret_cast<const bf16*>(role.stage((row - base) / ROWS) + part) + (row - base) % ROWS * B::D;
  }
  __device__ __forceinline__ const bf16* key(int row) const { return row_of(row, 0) + of_key; }
  __device__ __forceinline__ const bf16* value(int row) const { return row_of(row, SLOT / 2) + of_value; }
  static __device__ __forceinline__ Row get(const bf16* p) {
    const uint4 word = *reinterpret_cast<const uint4*>(p);
    Row row;
    row.word[0] = word.x, row.word[1] = word.y, row.word[2] = word.z, row.word[3] = word.w;
    return row;
  }
};

}  // namespace mpk
