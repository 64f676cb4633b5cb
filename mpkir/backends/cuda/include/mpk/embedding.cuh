// Rows of a table by token id.
//
// A printed body says
//   static constexpr int T, COLUMNS, LIMIT;     rows and columns of a task; ids are below LIMIT
//   static __device__ i64 id(const Work&, int t);
//   using Element;                              of the table; void: elements one by one
//   static __device__ const Element* eight(const Work&, i64 id, int column);   aligned to 8 elements,
//                                               which is what lies there, for a column that 8 divides
//   static constexpr bool packed;               whether they lie in a packed matrix's order
//   static __device__ float element(const Work&, i64 id, int column);  for void
//   static __device__ void store(const Work&, int t, int column, float value);
//   static constexpr bool stores_eight;         whether 8 neighbours can be stored at once, from a
//                                               column that 8 divides:
//   static __device__ void store_eight(const Work&, int t, int column, const float (&value)[8]);
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

template <class B>
struct Embedding {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;
  static constexpr int AT_ONCE = 4;  // vectors of a thread in flight

  static __device__ __forceinline__ i64 id(const Work& work, int t) {
    const i64 id = B::id(work, t);
    return id < 0 ? 0 : id >= B::LIMIT ? B::LIMIT - 1 : id;
  }
  static __device__ __forceinline__ constexpr int place(int e) { return B::packed ? packed_among(e) : e; }
  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    if constexpr (is_same<typename B::Element, void>) {
      for (int t = 0; t < B::T; ++t) {
        const i64 token = id(work, t);
        for (int column = threadIdx.x; column < B::COLUMNS; column += COMPUTE_THREADS)
          B::store(work, t, column, B::element(work, token, column));
      }
    } else {
      constexpr int EACH = B::COLUMNS / 8, COUNT = B::T * EACH;
      for (int first = threadIdx.x; first < COUNT; first += AT_ONCE * COMPUTE_THREADS) {
        i64 token[AT_ONCE] = {};
        Vector<typename B::Element, 8> vector[AT_ONCE] = {};
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          const int i = first + j * COMPUTE_THREADS;
          if (i < COUNT) token[j] = id(work, i / EACH);
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          const int i = first + j * COMPUTE_THREADS;
          if (i < COUNT)
            vector[j] = load_constant_vector<typename B::Element, 8>(B::eight(work, token[j], i % EACH * 8));
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          const int i = first + j * COMPUTE_THREADS;
          if (i >= COUNT) break;
          if constexpr (B::stores_eight) {
            float value[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) value[e] = vector[j].get(place(e));
            B::store_eight(work, i / EACH, i % EACH * 8, value);
          } else {
#pragma unroll
            for (int e = 0; e < 8; ++e) B::store(work, i / EACH, i % EACH * 8 + e, vector[j].get(place(e)));
          }
        }
      }
    }
  }
};

}  // namespace mpk
