// Rows of a table by token id.
//
// A printed body says
//   static constexpr int T, COLUMNS, LIMIT;     rows and columns of a task; ids are below LIMIT
//   static __device__ i64 id(const Work&, int t);
//   static __device__ void copy(const Work&, int t, int column, i64 id);
#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

template <class B>
struct Embedding {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 0, partial_bytes = 0;

  static __device__ void run(const Work& work, const LaunchArgs&, char*) {
    for (int t = 0; t < B::T; ++t) {
      i64 id = B::id(work, t);
      id = id < 0 ? 0 : id >= B::LIMIT ? B::LIMIT - 1 : id;
      for (int column = threadIdx.x; column < B::COLUMNS; column += COMPUTE_THREADS)
        B::copy(work, t, column, id);
    }
  }
};

}  // namespace mpk
