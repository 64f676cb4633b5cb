// y[t, n] = epilogue(sum_k prologue(x)[t, k] * weight_j[n, k], ...): stream the weights and multiply.
//
// A printed body says
//   static constexpr int T, K, ROWS, J;       rows of x; row length; output features a task; weights
//   static constexpr int N;                   rows of each weight; the last task may have fewer
//   using Weight = mpk::bf16;
//   static __device__ int weight(int j);      operand of weight j
//   static constexpr bool same_x;             x does not depend on the grid index
//   static __device__ int first_row(int index);                 of the task, in [0, N)
//   struct prologue {
//     static constexpr mpk::Norm norm; static constexpr float eps;
//     static constexpr bool constant_scale;   of parameters only: may be read before the task's wait
//     template <int E> static __device__ void load(const Work&, int t, int k, float (&x)[E]);
//     template <int E> static __device__ void scale(const Work&, int k, float (&g)[E]);   norm only
//     template <int E> static __device__ void shift(const Work&, int k, float (&b)[E]);   layer norm
//   };
//   struct epilogue {
//     struct Inputs {                               what an element's other operands are
//       __device__ void request(const Work&, int t, int row);              row in [0, ROWS)
//       __device__ bool arrived(u32 tag) const;
//     };
//     static __device__ void store(const Work&, int t, int row, const float (&y)[J], const Inputs&);
//   };
// and, for RingLinear,
//   static constexpr int STAGE_ROWS, PARTS;   a stage: so many rows, or one of PARTS parts of a row
// DirectLinear needs no stages: it reads the weights straight from global memory.
#pragma once
#include "best.cuh"
#include "linear_direct.cuh"
#include "reduce.cuh"
#include "runtime.cuh"

namespace mpk {

// How a streaming task is cut into stages and over the warps: WK warps along a row, WR rows at once.
template <class B>
struct RingShape {
  static constexpr int E = 16 / int(sizeof(typename B::Weight));
  static constexpr int V = B::K / E;  // 16-byte vectors in a row
  static constexpr int SLOT_V = SLOT / 16;
  static constexpr int PARTS = B::PARTS;     // a row longer than a slot comes in equal parts
  static constexpr int PV = V / PARTS;     // vectors in a part
  static constexpr int RPS = B::STAGE_ROWS;  // rows in a stage
  static constexpr int GROUPS = ceil_div(B::ROWS, RPS);
  static constexpr int time_of(int wk) {
    return ceil_div(RPS, COMPUTE_WARPS / wk) * ceil_div(PV, 32 * wk);
  }
  static constexpr int along_row() {
    int best = COMPUTE_WARPS;
    for (int wk = COMPUTE_WARPS / 2; wk > 0; wk /= 2)
      if (time_of(wk) < time_of(best) && PARTS * ceil_div(PV, 32 * wk) <= 8) best = wk;
    return best;
  }
  static constexpr int WK = along_row();
  static constexpr int WR = COMPUTE_WARPS / WK;
  static constexpr int XV = ceil_div(PV, 32 * WK);  // vectors of a part that a lane owns
  static constexpr int RW = ceil_div(RPS, WR);      // rows of a stage that a warp sums
  // One row of x stays in registers over a run of tasks.
  static constexpr bool KEEP = B::T == 1 && PARTS * XV * E <= 64;
  // All sums of a task stay in registers until its end; only of short tasks, because that unrolls
  // the whole task, and bodies that leave the instruction cache between layers run cold.
  static constexpr bool FLAT = KEEP && B::J * GROUPS * RW * PARTS * XV <= 32;
  static constexpr int PARTIAL = WK * B::T * B::J * B::ROWS * 4;
  static_assert(B::K % (E * PARTS) == 0, "a stage is a multiple of 16 bytes");
  static_assert(RPS * PV <= SLOT_V && (RPS == 1 || PARTS == 1), "a stage fits a slot");
};

template <class B>
struct RingLinear {
  using S = RingShape<B>;
  using prologue = typename B::prologue;
  using Weight = typename B::Weight;
  static constexpr bool streams = true;
  static constexpr int T = B::T, ROWS = B::ROWS, J = B::J;
  static constexpr int E = S::E, PARTS = S::PARTS, XV = S::XV, WK = S::WK, WR = S::WR, RW = S::RW;
  static constexpr int scratch_bytes = 8 * T;  // mean and factor of each row of x
  static constexpr int partial_bytes = S::PARTIAL;
  static constexpr bool publisher_sums = true;
  static constexpr bool in_passes = false;
  static constexpr bool NORM = prologue::norm != Norm::none;
  // Norm weights come from DRAM every step; where registers allow they are fetched before the wait.
  static constexpr bool early_scale() {
    if constexpr (NORM) return prologue::constant_scale && S::KEEP && PARTS * XV * E <= 32;
    return false;
  }
  static constexpr bool EARLY_SCALE = early_scale();

  // ---- loader ----

  template <class L>
  static __device__ __forceinline__ bool load(L& loader, const Work& work) {
    constexpr int ROW_BYTES = B::K * int(sizeof(Weight));
    const int first = B::first_row(work.index);
#pragma unroll 1
    for (int j = 0; j < J; ++j) {
      const char* weight = work.at<char>(B::weight(j));
#pragma unroll 1
      for (int g = 0; g < S::GROUPS; ++g) {
        // Rows after the last are not there: the last one stands in, its sums are dropped.
        const int row = least(first + g * S::RPS, B::N - 1);
        const int rows = least(least(S::RPS, ROWS - g * S::RPS), B::N - row);
        const char* source = weight + i64(row) * ROW_BYTES;
#pragma unroll 1
        for (int p = 0; p < PARTS; ++p)
          if (!loader.issue(source + p * (ROW_BYTES / PARTS), rows * (ROW_BYTES / PARTS)))
            return false;
      }
    }
    return true;
  }

  // ---- compute ----

  // Vector v of part p that this lane owns, as a number in the part; may be past the part's end.
  static __device__ __forceinline__ int owned(int wk, int lane, int v) {
    return (v * WK + wk) * 32 + lane;
  }
  static __device__ __forceinline__ bool exists(int vector) {
    return S::PV % (32 * WK) == 0 || vector < S::PV;
  }
  static __device__ __forceinline__ int element(int p, int vector) { return (p * S::PV + vector) * E; }

  static __device__ __forceinline__ void read_x(const Work& work, int t, int p, int wk, int lane,
                                                float (&x)[XV][E]) {
#pragma unroll
    for (int v = 0; v < XV; ++v) {
      const int vector = owned(wk, lane, v);
      if (exists(vector)) {
        prologue::template load<E>(work, t, element(p, vector), x[v]);
      } else {
#pragma unroll
        for (int i = 0; i < E; ++i) x[v][i] = 0.0f;
      }
    }
  }
  static __device__ __forceinline__ void read_scale(const Work& work, int p, int wk, int lane,
                                                    float (&g)[XV][E]) {
#pragma unroll
    for (int v = 0; v < XV; ++v) {
      const int vector = owned(wk, lane, v);
      if (exists(vector)) prologue::template scale<E>(work, element(p, vector), g[v]);
    }
  }
  // Normalises what read_x brought.
  static __device__ __forceinline__ void normalise(const Work& work, int p, int wk, int lane,
                                                   float mean, float factor,
                                                   const float (&g)[XV][E], float (&x)[XV][E]) {
#pragma unroll
    for (int v = 0; v < XV; ++v) {
      const int vector = owned(wk, lane, v);
      if (!exists(vector)) continue;
#pragma unroll
      for (int i = 0; i < E; ++i) x[v][i] = (x[v][i] - mean) * factor * g[v][i];
      if constexpr (prologue::norm == Norm::layer) {
        float b[E];
        prologue::template shift<E>(work, element(p, vector), b);
#pragma unroll
        for (int i = 0; i < E; ++i) x[v][i] += b[i];
      }
    }
  }
  // Sum over the row of a value that each lane has summed over its own elements.
  template <class C>
  static __device__ __forceinline__ float row_sum(C& role, float sum) {
    sum = warp_join<Add>(sum);
    if constexpr (WK == 1) return sum;
    float* buffer = role.s.reduce[role.toggle];
    role.toggle ^= 1;
    if (role.warp < WK && role.lane == 0) buffer[role.warp] = sum;
    compute_sync();
    float result = 0.0f;
#pragma unroll
    for (int i = 0; i < WK; ++i) result += buffer[i];
    return result;
  }
  static __device__ __forceinline__ float sum_of(int wk, int lane, const float (&x)[XV][E], float mean,
                                                 bool squares) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < XV; ++v)
      if (exists(owned(wk, lane, v))) {
#pragma unroll
        for (int i = 0; i < E; ++i) {
          const float d = x[v][i] - mean;
          sum += squares ? d * d : d;
        }
      }
    return sum;
  }
  // Mean (layer norm) and factor of row t; x holds part p's slice where KEEP, else it is read again.
  template <class C>
  static __device__ __forceinline__ void statistics(C& role, const Work& work, int t, int wk,
                                                    float (&kept)[PARTS][XV][E], float& mean,
                                                    float& factor) {
    mean = 0.0f;
    if constexpr (prologue::norm == Norm::layer) mean = total(role, work, t, wk, kept, 0.0f, false) / B::K;
    factor = rsqrtf(total(role, work, t, wk, kept, mean, true) / B::K + prologue::eps);
  }
  template <class C>
  static __device__ __forceinline__ float total(C& role, const Work& work, int t, int wk,
                                                float (&kept)[PARTS][XV][E], float mean, bool squares) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
      if constexpr (!S::KEEP) read_x(work, t, p, wk, role.lane, kept[0]);
      sum += sum_of(wk, role.lane, kept[S::KEEP ? p : 0], mean, squares);
    }
    return row_sum(role, sum);
  }

  // sum[i] += the warp's slice of row wr + WR * (first + i) of a stage, times x.
  template <int COUNT>
  static __device__ __forceinline__ void multiply(const char* stage, int wr, int wk, int lane, int first,
                                                  const float (&x)[XV][E], float (&sum)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      int row = wr + WR * (first + i);
      if (S::RPS % WR != 0 || S::RW % COUNT != 0) row = least(row, S::RPS - 1);
#pragma unroll
      for (int v = 0; v < XV; ++v) {
        const int vector = owned(wk, lane, v);
        Vector<Weight, E> w;
        if (exists(vector)) {
          const uint4 raw = *reinterpret_cast<const uint4*>(stage + (row * S::PV + vector) * 16);
          w.word[0] = raw.x, w.word[1] = raw.y, w.word[2] = raw.z, w.word[3] = raw.w;
        } else {
          w.clear();
        }
#pragma unroll
        for (int e = 0; e < E; ++e) sum[i] = fmaf(w.get(e), x[v][e], sum[i]);
      }
    }
  }

  // Where the sum of (t, j, row) over the slice of warp column wk goes.
  static __device__ __forceinline__ float& cell(float* partial, int wk, int t, int j, int row) {
    return partial[((wk * T + t) * J + j) * ROWS + row];
  }
  // Sums over the warp, and one lane a row writes (or adds) them. Row of sum i: base + WR * i.
  template <int COUNT>
  static __device__ __forceinline__ void finish(float (&sum)[COUNT], float* partial, int wk, int t, int j,
                                                int base, int limit, int lane, bool add) {
    constexpr int P2 = power_of_two_from(COUNT);
    float padded[P2];
#pragma unroll
    for (int i = 0; i < P2; ++i) padded[i] = i < COUNT ? sum[i < COUNT ? i : 0] : 0.0f;
    const float value = warp_sums<P2>(padded, lane);
    const int i = lane / (32 / P2);
    const int row = base + WR * i;
    if (lane % (32 / P2) == 0 && i < COUNT && row < limit) {
      float& target = cell(partial, wk, t, j, row);
      target = add ? target + value : value;
    }
  }

  // One task whose x is in registers and whose sums fit there too.
  template <class C>
  static __device__ __forceinline__ void task_flat(C& role, int wr, int wk,
                                                   const float (&x)[PARTS][XV][E]) {
    float sum[J][S::GROUPS * RW];
#pragma unroll
    for (int j = 0; j < J; ++j) {
#pragma unroll
      for (int g = 0; g < S::GROUPS; ++g) {
        float group[RW];
#pragma unroll
        for (int i = 0; i < RW; ++i) group[i] = 0.0f;
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          const char* stage = role.wait_stage();
          multiply<RW>(stage, wr, wk, role.lane, 0, x[p], group);
          role.release_stage();
        }
#pragma unroll
        for (int i = 0; i < RW; ++i) sum[j][g * RW + i] = group[i];
      }
    }
    float* partial = role.partial();
    finish_flat(role, partial, sum, wr, wk);
  }
  template <class C>
  static __device__ __forceinline__ void finish_flat(C& role, float* partial,
                                                     float (&sum)[J][S::GROUPS * RW], int wr, int wk) {
    constexpr int ALL = J * S::GROUPS * RW;
    constexpr int P2 = power_of_two_from(ALL);
    float padded[P2];
#pragma unroll
    for (int i = 0; i < P2; ++i)
      padded[i] = i < ALL ? sum[i < ALL ? i / (S::GROUPS * RW) : 0][i % (S::GROUPS * RW)] : 0.0f;
    const float value = warp_sums<P2>(padded, role.lane);
    const int i = role.lane / (32 / P2);
    const int j = i / (S::GROUPS * RW), g = i % (S::GROUPS * RW) / RW, in_stage = wr + WR * (i % RW);
    const int row = g * S::RPS + in_stage;
    if (role.lane % (32 / P2) == 0 && i < ALL && in_stage < S::RPS && row < ROWS)
      cell(partial, wk, 0, j, row) = value;
  }

  // One task in general: a few rows of a stage at a time, each row of x in turn.
  template <class C>
  static __device__ __forceinline__ void task_staged(C& role, const Work& work, int wr, int wk,
                                                     float (&x)[PARTS][XV][E]) {
    constexpr int CHUNK = least(RW, 8);
    float* partial = role.partial();
#pragma unroll 1
    for (int jg = 0; jg < J * S::GROUPS; ++jg) {
      const int j = jg / S::GROUPS, g = jg % S::GROUPS;
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        const char* stage = role.wait_stage();
#pragma unroll 1
        for (int t = 0; t < T; ++t) {
          if constexpr (!S::KEEP) reread(role, work, t, p, wk, x[0]);
#pragma unroll 1
          for (int first = 0; first < RW; first += CHUNK) {
            float sum[CHUNK];
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) sum[i] = 0.0f;
            multiply<CHUNK>(stage, wr, wk, role.lane, first, x[S::KEEP ? p : 0], sum);
            finish<CHUNK>(sum, partial, wk, t, j, g * S::RPS + wr + WR * first,
                          least((g + 1) * S::RPS, ROWS), role.lane, p > 0);
          }
        }
        role.release_stage();
      }
    }
  }
  template <class C>
  static __device__ __forceinline__ void reread(C& role, const Work& work, int t, int p, int wk,
                                                float (&x)[XV][E]) {
    read_x(work, t, p, wk, role.lane, x);
    if constexpr (NORM) {
      const float* stats = statistics_of(role);
      float g[XV][E];
      read_scale(work, p, wk, role.lane, g);
      normalise(work, p, wk, role.lane, stats[2 * t], stats[2 * t + 1], g, x);
    }
  }

  // Mean and factor of each row of x, in the memory that streaming bodies have alone.
  template <class C>
  static __device__ __forceinline__ float* statistics_of(C& role) {
    return reinterpret_cast<float*>(role.s.own_scratch(0));
  }
  // What a run of tasks shares: x, normalised, in registers, or the statistics of its rows.
  template <class C>
  static __device__ __forceinline__ void prepare(C& role, const Work& work, int wk,
                                                 float (&x)[PARTS][XV][E],
                                                 float (&g)[PARTS][XV][E]) {
    if constexpr (S::KEEP) {
#pragma unroll
      for (int p = 0; p < PARTS; ++p) read_x(work, 0, p, wk, role.lane, x[p]);
      if constexpr (NORM) {
        float mean, factor;
        statistics(role, work, 0, wk, x, mean, factor);
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          if constexpr (!EARLY_SCALE) read_scale(work, p, wk, role.lane, g[p]);
          normalise(work, p, wk, role.lane, mean, factor, g[p], x[p]);
        }
      }
    } else if constexpr (NORM) {
      float* stats = statistics_of(role);
#pragma unroll 1
      for (int t = 0; t < T; ++t) {
        float mean, factor;
        statistics(role, work, t, wk, x, mean, factor);
        if (role.warp == 0 && role.lane == 0) stats[2 * t] = mean, stats[2 * t + 1] = factor;
      }
      compute_sync();
    }
  }

  // This task and those after it that use the same x.
  template <class C>
  static __device__ __forceinline__ void compute(C& role) {
    const int wk = role.warp % WK, wr = role.warp / WK;
    const int family = role.work().family, step = role.work().step;
    float x[PARTS][XV][E];
    float g[PARTS][XV][E];
    if constexpr (EARLY_SCALE) {
#pragma unroll
      for (int p = 0; p < PARTS; ++p) read_scale(role.work(), p, wk, role.lane, g[p]);
    }
    if (!role.wait_ready()) return;
    role.wait_published();
    prepare(role, role.work(), wk, x, g);
    for (;;) {
      if constexpr (S::FLAT) {
        task_flat(role, wr, wk, x);
      } else {
        task_staged(role, role.work(), wr, wk, x);
      }
      role.hand_over();
      role.finish_task();
      role.wait_filled();
      const Work& next = role.work();
      if (!B::same_x || next.body < 0 || next.family != family || next.step != step) break;
      if (!role.wait_ready()) return;
    }
    // Who comes next may write where others still read the statistics.
    if constexpr (NORM && !S::KEEP) compute_sync();
  }

  // ---- publisher ----

  template <class R>
  static __device__ __forceinline__ void publish(R& role, const Work& work) {
    using epilogue = typename B::epilogue;
    const int rows = least(ROWS, B::N - B::first_row(work.index));
    typename epilogue::Inputs inputs;
    // The first 32 results' other operands are fetched while the sums are being made.
    const int early_t = role.lane / ROWS, early_row = role.lane % ROWS;
    if (early_t < T && early_row < rows) inputs = inputs_of<epilogue>(work, early_t, early_row);
    const float* partial = role.wait_partial();
#pragma unroll 1
    for (int at = role.lane; at < T * ROWS; at += 32) {
      const int t = at / ROWS, row = at % ROWS;
      if (row >= rows) continue;
      if (at >= 32) inputs = inputs_of<epilogue>(work, t, row);
      float y[J];
#pragma unroll
      for (int j = 0; j < J; ++j) {
        y[j] = 0.0f;
#pragma unroll
        for (int wk = 0; wk < WK; ++wk) y[j] += cell(const_cast<float*>(partial), wk, t, j, row);
      }
      if constexpr (best_of<B> > 0) {
        // In the place of a sum that nobody else reads.
        cell(const_cast<float*>(partial), 0, t, 0, row) = epilogue::store(work, t, row, y, inputs);
      } else {
        epilogue::store(work, t, row, y, inputs);
      }
    }
    if constexpr (best_of<B> > 0) {
      __syncwarp();
      keep_best<B>(work, 0, T, rows, role.lane,
                   [&](int t, int row) { return cell(const_cast<float*>(partial), 0, t, 0, row); });
    }
    role.published(work);
  }
};

}  // namespace mpk
