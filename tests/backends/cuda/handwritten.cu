// A small Llama-like step written by hand against the device library, in the form the printer uses:
// constants and functors for each body, one switch, one kernel. The test sets the shapes.
#include <mpk/argmax.cuh>
#include <mpk/attention.cuh>
#include <mpk/attention_merge.cuh>
#include <mpk/embedding.cuh>
#include <mpk/linear.cuh>
#include <mpk/runtime.cuh>

#ifndef HIDDEN
#define HIDDEN 2048
#define HEADS 32
#define KV_HEADS 8
#define HEAD 64
#define INNER 8192
#define VOCABULARY 128256
#define CAPACITY 1024
#define CHUNK_ROWS 128
#define ROWS_QKV 8
#define ROWS_O 16
#define ROWS_GATE 8
#define ROWS_DOWN 16
#define ROWS_HEAD 16
#define ARGMAX_CHUNK 1024
#define SHARED_BYTES 232448
#define IN_FLIGHT 2
#define SCALE 0.125f
#define STOP -2
#endif
#ifndef REGISTERS_FROM
#define REGISTERS_FROM 0
#endif
#ifndef ANY_DYNAMIC
#define ANY_DYNAMIC false
#endif

using mpk::bf16;
using mpk::i64;
using mpk::Work;

constexpr int SPLITS = (CAPACITY + CHUNK_ROWS - 1) / CHUNK_ROWS;
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int CANDIDATES = (VOCABULARY + ARGMAX_CHUNK - 1) / ARGMAX_CHUNK;

// tokens, table -> x
struct body_embed {
  static constexpr int T = 1, COLUMNS = HIDDEN, LIMIT = VOCABULARY;
  static __device__ i64 id(const Work& w, int t) { return mpk::load(w.at<i64>(0) + w.position + t); }
  using Element = bf16;
  static constexpr bool packed = false;
  static __device__ const bf16* eight(const Work& w, i64 id, int column) {
    return w.at<bf16>(1) + id * HIDDEN + column;
  }
  static __device__ void store(const Work& w, int t, int column, float value) {
    mpk::store(w.at<bf16>(2) + t * HIDDEN + column, value);
  }
  static constexpr bool stores_eight = false;
};
// x, norm weight, weight -> y: one weight behind an rms norm
template <int OUT, int ROWS_, class Y>
struct body_normed {
  static constexpr int T = 1, K = HIDDEN, N = OUT, ROWS = ROWS_, J = 1;
  using Weight = bf16;
  static __device__ int weight(int) { return 2; }
  static constexpr bool same_x = true;
  static constexpr int PARTS = mpk::ceil_div(2 * K, mpk::SLOT);
  static constexpr int STAGE_ROWS = PARTS > 1 ? 1 : mpk::least(ROWS, mpk::SLOT / (2 * K));
  static __device__ int first_row(int index) { return index * ROWS; }
  struct prologue {
    static constexpr mpk::Norm norm = mpk::Norm::rms;
    static constexpr float eps = 1e-5f;
    static constexpr bool constant_scale = true;
    template <int E>
    static __device__ void load(const Work& w, int t, int k, float (&x)[E]) {
      if constexpr (E == 1) x[0] = mpk::to_float(mpk::load(w.at<bf16>(0) + t * K + k));
      else mpk::load_vector<bf16, E>(w.at<bf16>(0) + t * K + k, x);
    }
    template <int E>
    static __device__ void scale(const Work& w, int k, float (&g)[E]) {
      if constexpr (E == 1) g[0] = mpk::to_float(w.at<bf16>(1)[k]);
      else mpk::load_constant_vector<bf16, E>(w.at<bf16>(1) + k).unpack(g);
    }
  };
  struct epilogue {
    struct Inputs {
      __device__ void request(const Work&, int, int) {}
      __device__ bool arrived(mpk::u32) const { return true; }
    };
    static __device__ void store(const Work& w, int t, int row, const float (&y)[J], const Inputs&) {
      mpk::store(w.at<Y>(3) + t * N + first_row(w.index) + row, y[0]);
    }
  };
};

// x, norm weight, gate, up -> h
struct body_gate_up : body_normed<INNER, ROWS_GATE, bf16> {
  static constexpr int J = 2;
  static __device__ int weight(int j) { return j == 0 ? 2 : 3; }
  struct epilogue {
    struct Inputs {
      __device__ void request(const Work&, int, int) {}
      __device__ bool arrived(mpk::u32) const { return true; }
    };
    static __device__ void store(const Work& w, int t, int row, const float (&y)[J], const Inputs&) {
      mpk::store(w.at<bf16>(4) + t * N + first_row(w.index) + row, y[0] / (1.0f + __expf(-y[0])) * y[1]);
    }
  };
};

// x, weight, residual -> y
template <int IN, int ROWS_>
struct body_residual {
  static constexpr int T = 1, K = IN, N = HIDDEN, ROWS = ROWS_, J = 1;
  using Weight = bf16;
  static __device__ int weight(int) { return 1; }
  static constexpr bool same_x = true;
  static constexpr int PARTS = mpk::ceil_div(2 * K, mpk::SLOT);
  static constexpr int STAGE_ROWS = PARTS > 1 ? 1 : mpk::least(ROWS, mpk::SLOT / (2 * K));
  static __device__ int first_row(int index) { return index * ROWS; }
  struct prologue {
    static constexpr mpk::Norm norm = mpk::Norm::none;
    template <int E>
    static __device__ void load(const Work& w, int t, int k, float (&x)[E]) {
      if constexpr (E == 1) x[0] = mpk::to_float(mpk::load(w.at<bf16>(0) + t * K + k));
      else mpk::load_vector<bf16, E>(w.at<bf16>(0) + t * K + k, x);
    }
  };
  struct epilogue {
    struct Inputs {
      float residual;
      __device__ void request(const Work& w, int t, int row) {
        residual = mpk::to_float(mpk::load(w.at<bf16>(2) + t * N + first_row(w.index) + row));
      }
      __device__ bool arrived(mpk::u32) const { return true; }
    };
    static __device__ void store(const Work& w, int t, int row, const float (&y)[J], const Inputs& in) {
      mpk::store(w.at<bf16>(3) + t * N + first_row(w.index) + row, y[0] + in.residual);
    }
  };
};

// q, k, v, inv_freq, k cache, v cache -> acc, stats; grid [KV_HEADS, SPLITS]
struct body_attention {
  static constexpr int T = 1, D = HEAD, G = GROUP, WINDOW = 0;
  static constexpr float scale = SCALE, soft_cap = 0.0f;
  static constexpr int RUN = CHUNK_ROWS;
  static constexpr bool split = true, joins = false, polled = false;
  using Cache = bf16;
  using Query = bf16;
  using Key = bf16;
  using Value = bf16;
  static __device__ int head(const Work& w) { return w.index / SPLITS; }
  static __device__ int chunk(const Work& w) { return w.index % SPLITS; }
  static __device__ int rows_before(const Work& w, i64 p) {
    const i64 rows = p - chunk(w) * CHUNK_ROWS;
    return rows < 0 ? 0 : rows > CHUNK_ROWS ? CHUNK_ROWS : int(rows);
  }
  static __device__ Cache* cache(const Work& w, int number) {
    return w.at<bf16>(number) + (head(w) * CAPACITY + chunk(w) * CHUNK_ROWS) * D;
  }
  static __device__ Cache* k_cache(const Work& w) { return cache(w, 4); }
  static __device__ Cache* v_cache(const Work& w) { return cache(w, 5); }
  static __device__ int offset(int row) { return row * D; }
  static __device__ const bf16* q_row(const Work& w, int t, int g) {
    return w.at<bf16>(0) + (t * HEADS + head(w) * G + g) * D;
  }
  static __device__ const bf16* k_row(const Work& w, int t) { return w.at<bf16>(1) + (t * KV_HEADS + head(w)) * D; }
  static __device__ const bf16* v_row(const Work& w, int t) { return w.at<bf16>(2) + (t * KV_HEADS + head(w)) * D; }
  struct q_prologue {
    static constexpr bool norm = false;
    static constexpr mpk::Rotary rotary = mpk::Rotary::half;
    static constexpr int R = D;
    static constexpr float factor = 1.0f;
    static __device__ const float* inv_freq(const Work& w) { return w.at<float>(3); }
  };
  using k_prologue = q_prologue;
  static __device__ void store_acc(const Work& w, int t, int g, int d, float y) {
    w.at<float>(6)[((t * HEADS + head(w) * G + g) * SPLITS + chunk(w)) * D + d] = y;
  }
  static __device__ void store_stats(const Work& w, int t, int g, int i, float y) {
    w.at<float>(7)[((t * HEADS + head(w) * G + g) * SPLITS + chunk(w)) * 2 + i] = y;
  }
};

// acc, stats -> y; grid [KV_HEADS]
struct body_merge {
  static constexpr int ROWS = GROUP, D = HEAD, SPLITS = ::SPLITS;
  using Acc = float;
  using Stats = float;
  static __device__ const float* acc(const Work& w, int row, int split) {
    return w.at<float>(0) + ((w.index * ROWS + row) * SPLITS + split) * D;
  }
  static __device__ const float* stats(const Work& w, int row, int split) {
    return w.at<float>(1) + ((w.index * ROWS + row) * SPLITS + split) * 2;
  }
  static __device__ int parts(const Work& w) { return int(w.position / CHUNK_ROWS) + 1; }
  static __device__ void store(const Work& w, int row, int d, float y) {
    mpk::store(w.at<bf16>(2) + (w.index * ROWS + row) * D + d, y);
  }
};

// logits -> value, index
struct body_argmax {
  static constexpr int ROWS = 1, CHUNKS = 1, CHUNK = ARGMAX_CHUNK, WIDTH = VOCABULARY;
  using X = float;
  static __device__ int origin(const Work& w) { return w.index; }
  static __device__ const float* four(const Work& w, int, int i) { return w.at<float>(0) + w.index * CHUNK + i; }
  static __device__ void store(const Work& w, int, int, float value, i64 index) {
    w.at<float>(1)[w.index] = value;
    w.at<i64>(2)[w.index] = index;
  }
};

// value, index -> token, tokens
struct body_next {
  static constexpr int ROWS = 1, COUNT = CANDIDATES, T = 1, SEQUENCES = 1;
  static constexpr bool append = true, marks = false;
  static constexpr i64 capacity = CAPACITY + 1;
  static __device__ float value(const Work& w, int, int i) { return mpk::load(w.at<float>(0) + i); }
  static __device__ i64 index(const Work& w, int, int i) { return mpk::load(w.at<i64>(1) + i); }
  static __device__ void store(const Work& w, int, i64 token) { *w.at<i64>(2) = token; }
  static __device__ i64* sequence(const Work& w) { return w.at<i64>(3); }
  static __device__ bool stops(i64 token) { return token == STOP; }
};

using kernel_0 = mpk::Embedding<body_embed>;
using kernel_1 = mpk::RingLinear<body_normed<HEADS * HEAD, ROWS_QKV, bf16>>;
using kernel_2 = mpk::RingLinear<body_normed<KV_HEADS * HEAD, ROWS_QKV, bf16>>;
using kernel_3 = mpk::Attention<body_attention>;
using kernel_4 = mpk::AttentionMerge<body_merge>;
using kernel_5 = mpk::RingLinear<body_residual<HEADS * HEAD, ROWS_O>>;
using kernel_6 = mpk::RingLinear<body_gate_up>;
using kernel_7 = mpk::RingLinear<body_residual<INNER, ROWS_DOWN>>;
using kernel_8 = mpk::RingLinear<body_normed<VOCABULARY, ROWS_HEAD, float>>;
using kernel_9 = mpk::ArgmaxPartial<body_argmax>;
using kernel_10 = mpk::ArgmaxMerge<body_next>;

struct program {
  static constexpr int tokens = 1, shared_bytes = SHARED_BYTES, ring_slots = 12, in_flight = IN_FLIGHT;
  static constexpr int ease = 0, pace = 0, long_pace = 0, long_from = 0, ahead = 0;
  static constexpr bool stages = false;
  static constexpr int registers_from = REGISTERS_FROM;
  static constexpr bool dynamic = ANY_DYNAMIC;
  using bodies = mpk::Bodies<kernel_0, kernel_1, kernel_2, kernel_3, kernel_4, kernel_5, kernel_6, kernel_7,
                             kernel_8, kernel_9, kernel_10>;
  template <class Visitor>
  static __device__ __forceinline__ void dispatch(int body, Visitor& visitor) {
    switch (body) {
      case 0: visitor.template visit<kernel_0>(); break;
      case 1: visitor.template visit<kernel_1>(); break;
      case 2: visitor.template visit<kernel_2>(); break;
      case 3: visitor.template visit<kernel_3>(); break;
      case 4: visitor.template visit<kernel_4>(); break;
      case 5: visitor.template visit<kernel_5>(); break;
      case 6: visitor.template visit<kernel_6>(); break;
      case 7: visitor.template visit<kernel_7>(); break;
      case 8: visitor.template visit<kernel_8>(); break;
      case 9: visitor.template visit<kernel_9>(); break;
      case 10: visitor.template visit<kernel_10>(); break;
    }
  }
};
MPK_KERNEL(program)
