// A linear whose weights are chosen at run time: one matrix of each stack for every slot.
//
// A printed body says
//   static constexpr int SLOTS, X_ROWS, T, K;  slots of a task, its rows of x and of results; row length
//   static constexpr int N, ROWS, J, EXPERTS;  features in all and of a task; weights; matrices of a stack
//   static constexpr bool scaled, aligned;     slots are summed up; rows of weights begin at 16 bytes
//   using Weight = mpk::bf16;
//   static __device__ int first_row(int index);
//   static __device__ const Weight* row(const Work&, int j, int expert, int row);
//   static __device__ int expert(const Work&, int slot);
//   static __device__ float factor(const Work&, int slot);                   scaled only
//   struct prologue, struct epilogue                                         as in linear.cuh
//
// Without scales every slot is a row of results and neighbouring slots share a row of x; with scales
// every slot has a row of x and neighbouring slots share a row of results. Which rows are read is
// known only when the router has chosen, so the weights come straight from global memory: each warp
// has some of the task's rows, its lanes neighbouring vectors of them, eight or so loads in flight.
#pragma once
#include "linear_direct.cuh"

namespace mpk {

template <class B>
struct ExpertLinear {
  using prologue = typename B::prologue;
  using epilogue = typename B::epilogue;
  using Weight = typename B::Weight;
  static constexpr bool streams = false;
  static constexpr int ROOM = 4096;  // elements of x in shared memory at a time
  static constexpr int E = B::aligned ? 16 / int(sizeof(Weight)) : 1;  // elements of a load
  static constexpr int PIECE = least(B::K, ROOM);                      // of a row of x
  static constexpr int EACH = B::SLOTS / B::T, SHARED = B::SLOTS / B::X_ROWS;
  static constexpr int GROUP = least(EACH, most(1, ROOM / PIECE));     // slots at a time
  static constexpr int RW = ceil_div(B::ROWS, COMPUTE_WARPS);          // rows of a warp
  static constexpr int VECTORS = ceil_div(PIECE, E), LANE_VECTORS = ceil_div(VECTORS, 32);
  static constexpr int UNROLL = least(LANE_VECTORS, most(1, 8 / (B::J * RW)));
  static constexpr int OWN = ceil_div(VECTORS, COMPUTE_THREADS);       // vectors of x of a thread
  static constexpr int PLANES = most(1, E / 4);
  static constexpr int scratch_bytes = ROOM * 4 + 2 * COMPUTE_WARPS * 4, partial_bytes = 0;
  static constexpr bool NORM = prologue::norm != Norm::none;
  static_assert(B::SLOTS == (B::scaled ? B::X_ROWS : B::T), "a slot is a row of results or of x");
  static_assert(E == 1 || B::K % E == 0, "rows are whole vectors");
  static_assert(PIECE == B::K || PIECE % E == 0, "pieces are whole vectors");

  // What one load brings: a vector, or one element where rows are not aligned.
  struct Scalar {
    float value;
    __device__ __forceinline__ void load(const Weight* from) { value = to_float(load_constant(from)); }
    __device__ __forceinline__ float get(int) const { return value; }
  };
  template <int N, bool VECTOR>
  struct RawOf : Scalar {};
  template <int N>
  struct RawOf<N, true> {
    Vector<Weight, N> vector;
    __device__ __forceinline__ void load(const Weight* from) {
      vector = load_constant_vector<Weight, N>(from);
    }
    __device__ __forceinline__ float get(int e) const { return vector.get(e); }
  };
  using Raw = RawOf<E, (E > 1)>;

  // Vector v of a row of x lies in planes of four elements, so that lanes read without conflicts.
  static __device__ __forceinline__ void put(float* xs, int v, const float (&x)[E]) {
#pragma unroll
    for (int i = 0; i < E; ++i) xs[E == 1 ? v : ((i / 4) * VECTORS + v) * 4 + i % 4] = x[i];
  }
  static __device__ __forceinline__ void get(const float* xs, int v, float (&x)[E]) {
    if constexpr (E == 1) {
      x[0] = xs[v];
    } else {
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        const float4 four = reinterpret_cast<const float4*>(xs)[plane * VECTORS + v];
        x[4 * plane] = four.x, x[4 * plane + 1] = four.y;
        x[4 * plane + 2] = four.z, x[4 * plane + 3] = four.w;
      }
    }
  }

  static __device__ __forceinline__ bool exists(int v, int from) {
    return v < VECTORS && (PIECE == B::K || from + v * E < B::K);
  }
  static __device__ __forceinline__ void read(const Work& work, int row, int from, float (&x)[OWN][E]) {
#pragma unroll
    for (int u = 0; u < OWN; ++u) {
      const int v = threadIdx.x + u * COMPUTE_THREADS;
      if (exists(v, from)) prologue::template load<E>(work, row, from + v * E, x[u]);
    }
  }
  static __device__ __forceinline__ float own_sum(int from, const float (&x)[OWN][E], float mean,
                                                  bool squares) {
    float sum = 0.0f;
#pragma unroll
    for (int u = 0; u < OWN; ++u) {
      if (!exists(threadIdx.x + u * COMPUTE_THREADS, from)) continue;
#pragma unroll
      for (int i = 0; i < E; ++i) {
        const float d = x[u][i] - mean;
        sum += squares ? d * d : d;
      }
    }
    return sum;
  }
  // Sum of (x - mean) or its square over a row; x holds the row where it is one piece.
  static __device__ __forceinline__ float total(const Work& work, int row, float (&x)[OWN][E],
                                                float mean, bool squares, float* buffer) {
    float sum = 0.0f;
    for (int from = 0; from < B::K; from += PIECE) {
      if constexpr (PIECE != B::K) read(work, row, from, x);
      sum += own_sum(from, x, mean, squares);
    }
    compute_sync();
    return compute_join<Add>(sum, buffer);
  }
  // A piece of the row of x that a slot multiplies, through prologue and scale, to shared memory.
  static __device__ __forceinline__ void fill(const Work& work, int slot, int from, float* xs,
                                              float* buffer) {
    const int row = slot / SHARED;
    float x[OWN][E];
    read(work, row, from, x);
    float mean = 0.0f, factor = 1.0f;
    if constexpr (prologue::norm == Norm::layer)
      mean = total(work, row, x, 0.0f, false, buffer) / B::K;
    if constexpr (NORM) {
      factor = rsqrtf(total(work, row, x, mean, true, buffer + COMPUTE_WARPS) / B::K + prologue::eps);
      if constexpr (PIECE != B::K) read(work, row, from, x);
    }
    float scale = 1.0f;
    if constexpr (B::scaled) scale = B::factor(work, slot);
#pragma unroll
    for (int u = 0; u < OWN; ++u) {
      const int v = threadIdx.x + u * COMPUTE_THREADS;
      if (!exists(v, from)) continue;
      if constexpr (NORM) {
        float g[E];
        prologue::template scale<E>(work, from + v * E, g);
#pragma unroll
        for (int i = 0; i < E; ++i) x[u][i] = (x[u][i] - mean) * factor * g[i];
      }
      if constexpr (prologue::norm == Norm::layer) {
        float b[E];
        prologue::template shift<E>(work, from + v * E, b);
#pragma unroll
        for (int i = 0; i < E; ++i) x[u][i] += b[i];
      }
#pragma unroll
      for (int i = 0; i < E; ++i) x[u][i] *= scale;
      put(xs, v, x[u]);
    }
  }

  // sum[j][i] += the lane's vectors of row warp + COMPUTE_WARPS * i of an expert, times x.
  static __device__ __forceinline__ void multiply(const Work& work, int expert, int rows, int from,
                                                  const float* xs, float (&sum)[B::J][RW]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Weight* base[B::J][RW];
#pragma unroll
    for (int j = 0; j < B::J; ++j)
#pragma unroll
      for (int i = 0; i < RW; ++i)
        base[j][i] = B::row(work, j, expert, least(warp + COMPUTE_WARPS * i, rows - 1)) + from;
#pragma unroll 1
    for (int first = 0; first < LANE_VECTORS; first += UNROLL) {
      Raw w[UNROLL][B::J][RW];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int v = (first + u) * 32 + lane;
        if (!exists(v, from)) continue;
#pragma unroll
        for (int j = 0; j < B::J; ++j)
#pragma unroll
          for (int i = 0; i < RW; ++i) w[u][j][i].load(base[j][i] + v * E);
      }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int v = (first + u) * 32 + lane;
        if (!exists(v, from)) continue;
        float x[E];
        get(xs, v, x);
#pragma unroll
        for (int j = 0; j < B::J; ++j)
#pragma unroll
          for (int i = 0; i < RW; ++i)
#pragma unroll
            for (int e = 0; e < E; ++e) sum[j][i] = fmaf(w[u][j][i].get(e), x[e], sum[j][i]);
      }
    }
  }

  static __device__ void run(const Work& work, const LaunchArgs&, char* scratch) {
    float* xs = reinterpret_cast<float*>(scratch);
    float* buffer = xs + ROOM;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int rows = least(B::ROWS, B::N - B::first_row(work.index));
#pragma unroll 1
    for (int t = 0; t < B::T; ++t) {
      // Lane i stores row i of the warp; what its epilogue reads is fetched meanwhile.
      const int own = warp + COMPUTE_WARPS * lane;
      const bool stores = lane < RW && own < rows;
      typename epilogue::Inputs inputs;
      if (stores) inputs = inputs_of<epilogue>(work, t, own);
      float sum[B::J][RW] = {};
#pragma unroll 1
      for (int group = t * EACH; group < (t + 1) * EACH; group += GROUP) {
        const int slots = least(GROUP, (t + 1) * EACH - group);
#pragma unroll 1
        for (int from = 0; from < B::K; from += PIECE) {
          compute_sync();
#pragma unroll 1
          for (int s = 0; s < slots; ++s) fill(work, group + s, from, xs + s * PIECE, buffer);
          compute_sync();
#pragma unroll 1
          for (int s = 0; s < slots; ++s) {
            const int expert = most(0, least(B::expert(work, group + s), B::EXPERTS - 1));
            multiply(work, expert, rows, from, xs + s * PIECE, sum);
          }
        }
      }
      float y[B::J];
#pragma unroll
      for (int j = 0; j < B::J; ++j)
#pragma unroll
        for (int i = 0; i < RW; ++i) {
          const float value = warp_join<Add>(sum[j][i]);
          if (lane == i) y[j] = value;
        }
      if (stores) epilogue::store(work, t, own, y, inputs);
    }
  }
};

}  // namespace mpk
