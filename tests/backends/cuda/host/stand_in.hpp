// Sequential stand-ins for the device library: the contracts of include/mpk/*.cuh in plain C++, so
// that what the printer writes (offsets, functors, the switch) is run and checked without a GPU.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#define MPK_MEMBER static inline
#define __device__
#define __forceinline__ inline
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }

namespace mpk {

using i64 = long long;
struct bf16 { std::uint16_t bits; };

inline float to_float(bf16 v) {
  const std::uint32_t word = std::uint32_t(v.bits) << 16;
  float f;
  std::memcpy(&f, &word, 4);
  return f;
}
template <class T>
float to_float(T v) { return float(v); }
inline float infinity() { return std::numeric_limits<float>::infinity(); }
inline float nan() { return std::numeric_limits<float>::quiet_NaN(); }

template <class T>
T load(const T* p) { return *p; }
inline bf16 narrow(float v) {
  std::uint32_t word;
  std::memcpy(&word, &v, 4);
  if (v != v) return {0x7fc0};
  return {std::uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16)};
}
inline float round_bf16(float v) { return to_float(narrow(v)); }
template <class T, class V>
void store(T* p, V v) {
  if constexpr (std::is_same_v<T, bf16>) *p = narrow(float(v));
  else *p = T(v);
}
template <class T, int N>
struct Vector {
  const T* p;
  void unpack(float (&v)[N]) const {
    if (reinterpret_cast<std::uintptr_t>(p) % std::min<std::size_t>(16, N * sizeof(T))) std::abort();
    for (int i = 0; i < N; ++i) v[i] = to_float(p[i]);
  }
};
template <class T, int N>
Vector<T, N> load_vector(const T* p) { return {p}; }
template <class T, int N>
Vector<T, N> load_constant_vector(const T* p) { return {p}; }

// Elements with a tag: one task runs after the other here, so whoever looks finds this step's.
template <class T>
struct Tagged {
  std::conditional_t<sizeof(T) == 2, std::uint32_t, std::uint64_t> word;
};
struct Work;
template <class T>
float await(const Tagged<T>* p, const Work& w);
template <class T, class V>
void publish(Tagged<T>* p, V v, const Work& w);

enum class Norm { none, rms, layer };
enum class Rotary { none, half, interleaved };
inline void sine_cosine(float angle, float& sine, float& cosine) {
  sine = std::sin(angle), cosine = std::cos(angle);
}

struct Work {
  void** operand;
  i64 position;
  int index, step;
  int* stop_at;
  template <class T>
  T* at(int k) const { return static_cast<T*>(operand[k]); }
  std::uint32_t tag() const { return std::uint32_t(step) + 1; }
};
template <class T>
float await(const Tagged<T>* p, const Work& w) {
  constexpr int bits = sizeof(T) == 2 ? 16 : 32;
  const auto tag = sizeof(T) == 2 ? p->word : p->word >> 32;
  const auto value = sizeof(T) == 2 ? p->word >> 16 : p->word;
  if ((tag & (~0u >> (32 - bits))) != (w.tag() & (~0u >> (32 - bits)))) std::abort();
  T v;
  std::memcpy(&v, &value, sizeof(T));
  return to_float(v);
}
template <class T, class V>
void publish(Tagged<T>* p, V v, const Work& w) {
  T stored;
  store(&stored, v);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &stored, sizeof(T));
  if constexpr (sizeof(T) == 2) p->word = std::uint32_t(bits) << 16 | (w.tag() & 0xffff);
  else p->word = std::uint64_t(w.tag()) << 32 | bits;
}

// Elements with one bit of it, and some in lines of their own.
template <class T>
struct Brief {
  std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t> word;
  static constexpr int BIT = sizeof(T) == 2 ? 14 : 0;
  bool has(std::uint32_t tag) const { return (word >> BIT & 1) == (tag & 1); }
  // A bf16 is there times 2^-64, as long as that is below 1.
  float value() const {
    const float scaled = to_float(T{static_cast<std::uint16_t>(word & ~(1u << BIT))});
    return std::abs(scaled) < 1 ? std::ldexp(scaled, 64) : nan();
  }
};
template <>
inline float Brief<float>::value() const {
  const std::uint32_t bits = word & ~1u;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
template <class T>
float await(const Brief<T>* p, const Work& w) {
  if (!p->has(w.tag())) std::abort();
  return p->value();
}
template <class T, class V>
void publish(Brief<T>* p, V v, const Work& w) {
  T stored;
  if constexpr (sizeof(T) == 2) {
    const float scaled = std::ldexp(float(v), -64);
    store(&stored, std::abs(scaled) < 1 ? scaled : 1.0f);
  } else {
    store(&stored, v);
  }
  std::memcpy(&p->word, &stored, sizeof(T));
  p->word = (p->word & ~(1u << p->BIT)) | (w.tag() & 1) << p->BIT;
}
// Floats as two planes of these, so many elements apart: rounded, and what that lost.
template <int DISTANCE>
struct Planes {
  Brief<bf16> rounded;
};
template <int DISTANCE>
float await(const Planes<DISTANCE>* p, const Work& w) {
  return await(&p->rounded, w) + await(&p->rounded + DISTANCE, w);
}
template <int DISTANCE, class V>
void publish(Planes<DISTANCE>* p, V v, const Work& w) {
  bf16 rounded;
  store(&rounded, float(v));
  publish(&p->rounded, to_float(rounded), w);
  publish(&p->rounded + DISTANCE, float(v) - to_float(rounded), w);
}
template <class X>
void publish_eight(X* p, const float (&v)[8], const Work& w) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) std::abort();
  for (int e = 0; e < 8; ++e) publish(p + e, v[e], w);
}
template <class X, int GROUP>
i64 apart(i64 e) { return e / GROUP * (128 / i64(sizeof(X))) + e % GROUP; }
template <int G, int P>
i64 panel(int t, int k) {
  if (t < 0 || t >= P || k < 0) std::abort();
  return i64(k) / G * (G * P) + t * G + k % G;
}

// Ranks, of which one after the other runs here; the host says whose turn it is.
template <class T>
struct Exchanged {
  decltype(Tagged<T>::word) word;
};
struct Peers {
  int rank, ranks, first_peer_event, reserved;
  i64 delta[16];
};
}  // namespace mpk
extern "C" {
inline mpk::Peers mpk_peers;
__attribute__((used)) inline void set_peers(const mpk::Peers* peers) { mpk_peers = *peers; }
}
namespace mpk {
using u32 = std::uint32_t;
inline int own_rank() { return mpk_peers.rank; }
template <class X>
X* at_rank(X* p, int r) { return reinterpret_cast<X*>(reinterpret_cast<char*>(p) + mpk_peers.delta[r]); }
template <int ROW, class T, class V>
void publish_all(Exchanged<T>* p, V v, const Work& w) {
  for (int r = 0; r < mpk_peers.ranks; ++r)
    publish(reinterpret_cast<Tagged<T>*>(at_rank(p, r)), v, w);
}
template <int ROW, class T, class V>
void store_all(T* p, V v) {
  for (int r = 0; r < mpk_peers.ranks; ++r) store(at_rank(p, r), v);
}
template <int ROW, int COUNT, class T, class V>
void publish_part(Exchanged<T>* p, V v, const Work& w, int part) {
  const int alike = mpk_peers.ranks / COUNT;
  for (int r = part * alike; r < (part + 1) * alike; ++r)
    publish(reinterpret_cast<Tagged<T>*>(at_rank(p, r)), v, w);
}
template <int ROW, int COUNT, class T, class V>
void store_part(T* p, V v, int part) {
  const int alike = mpk_peers.ranks / COUNT;
  for (int r = part * alike; r < (part + 1) * alike; ++r) store(at_rank(p, r), v);
}
template <class T>
float await(const Exchanged<T>* p, const Work& w) {
  return await(reinterpret_cast<const Tagged<T>*>(p), w);
}
template <class X, int N>
struct Fetched;
template <template <class> class X, class T>
struct Fetched<X<T>, 1> {
  static constexpr int TAG_BITS = 8 * sizeof(X<T>) / 2;
  X<T> element;
  void request(const X<T>* address) { element = *address; }
  bool arrived(u32 tag) const {
    const u32 found = sizeof(T) == 2 ? u32(element.word) : u32(std::uint64_t(element.word) >> 32);
    return ((found ^ tag) & (~0u >> (32 - TAG_BITS))) == 0;
  }
  float get(int) const {
    const auto value = sizeof(T) == 2 ? element.word >> 16 : element.word;
    T v;
    std::memcpy(&v, &value, sizeof(T));
    return to_float(v);
  }
};
template <class T>
struct Fetched<Brief<T>, 1> {
  Brief<T> element;
  void request(const Brief<T>* address) { element = *address; }
  bool arrived(u32 tag) const { return element.has(tag); }
  float get(int) const { return element.value(); }
};
template <int DISTANCE>
struct Fetched<Planes<DISTANCE>, 1> {
  Brief<bf16> rounded, lost;
  void request(const Planes<DISTANCE>* p) { rounded = p->rounded, lost = *(&p->rounded + DISTANCE); }
  bool arrived(u32 tag) const { return rounded.has(tag) && lost.has(tag); }
  float get(int) const { return rounded.value() + lost.value(); }
};
// What an epilogue reads.
template <class epilogue>
typename epilogue::Inputs inputs_of(const Work& w, int t, int row) {
  typename epilogue::Inputs inputs;
  inputs.request(w, t, row);
  if (!inputs.arrived(w.tag())) std::abort();
  return inputs;
}
template <class B>
struct Gathered {
  static void run(const Work& w) {
    for (int i = 0; i < B::COUNT; ++i) {
      typename B::Sent sent;
      sent.request(w, i);
      if (!sent.arrived(w.tag())) std::abort();
      B::element(w, i, sent);
    }
  }
};

// An element as it is in memory.
template <class T>
float read(const T* p, const Work&) { return to_float(*p); }
template <class T>
float read(const Tagged<T>* p, const Work& w) { return await(p, w); }
template <class T>
float read(const Brief<T>* p, const Work& w) { return await(p, w); }
template <int DISTANCE>
float read(const Planes<DISTANCE>* p, const Work& w) { return await(p, w); }

// Mean and factor of a row.
template <Norm KIND, class Load>
void statistics(int count, float eps, Load load, float& mean, float& factor) {
  double sum = 0, squares = 0;
  for (int k = 0; k < count; ++k) sum += load(k);
  mean = KIND == Norm::layer ? float(sum / count) : 0.0f;
  for (int k = 0; k < count; ++k) squares += (load(k) - mean) * (load(k) - mean);
  factor = float(1 / std::sqrt(squares / count + eps));
}

template <int K>
i64 packed_place(int row, int column) {
  const int among[] = {0, 1, 4, 5, 2, 3, 6, 7};
  return (i64(row / 8) * (K / 32) + column / 32) * 256 + row % 8 * 32 + column % 32 / 8 * 8 +
         among[column % 8];
}

// Of how many features a product keeps the best.
template <class B, class = void>
inline constexpr int best_of = 0;
template <class B>
inline constexpr int best_of<B, std::void_t<decltype(B::BEST)>> = B::BEST;

template <class B, int E, bool PACKED = false>
struct Linear {
  static void run(const Work& w) {
    using P = typename B::prologue;
    using Weight = typename B::Weight;
    const int first = B::first_row(w.index), rows = std::min(B::ROWS, B::N - first);
    std::vector<float> x(B::K);
    for (int t = 0; t < B::T; ++t) {
      [[maybe_unused]] std::vector<float> stored;
      for (int k = 0; k < B::K; k += E) {
        float v[E];
        P::load(w, t, k, v);
        std::copy(v, v + E, &x[k]);
      }
      normalise<P>(w, x);
      for (int row = 0; row < rows; ++row) {
        float y[B::J];
        for (int j = 0; j < B::J; ++j) {
          const Weight* weight = w.at<Weight>(B::weight(j));
          y[j] = 0;
          for (int k = 0; k < B::K; ++k)
            y[j] += x[k] * to_float(weight[PACKED ? packed_place<B::K>(first + row, k)
                                                  : i64(first + row) * B::K + k]);
        }
        const auto inputs = mpk::inputs_of<typename B::epilogue>(w, t, row);
        if constexpr (best_of<B> > 0) stored.push_back(B::epilogue::store(w, t, row, y, inputs));
        else B::epilogue::store(w, t, row, y, inputs);
      }
      if constexpr (best_of<B> > 0) keep_best(w, t, stored);
    }
  }
  static void keep_best(const Work& w, int t, const std::vector<float>& stored) {
    for (int chunk = 0; chunk < int(stored.size()) / B::BEST; ++chunk) {
      const auto first = stored.begin() + chunk * B::BEST;
      const auto best = std::max_element(first, first + B::BEST);
      B::keep(w, t, chunk, *best, best - first);
    }
  }
  template <class P>
  static void normalise(const Work& w, std::vector<float>& x) {
    if constexpr (P::norm != Norm::none) {
      float mean, factor;
      statistics<P::norm>(B::K, P::eps, [&](int k) { return x[k]; }, mean, factor);
      for (int k = 0; k < B::K; k += E) {
        float g[E], b[E] = {};
        P::scale(w, k, g);
        if constexpr (P::norm == Norm::layer) P::shift(w, k, b);
        for (int i = 0; i < E; ++i) x[k + i] = (x[k + i] - mean) * factor * g[i] + b[i];
      }
    }
  }
};
template <class B>
struct RingLinear : Linear<B, 16 / sizeof(typename B::Weight)> {
  static_assert(B::ROWS % B::STAGE_ROWS == 0 || B::STAGE_ROWS < B::ROWS, "stages");
};
template <class B>
struct PackedLinear : Linear<B, 4, true> {
  static_assert(B::STAGE_ROWS == 8 && B::ROWS % 8 == 0 && B::K % (32 * B::PARTS) == 0, "blocks");
  static void run(const Work& w) {
    if constexpr (B::prologue::direct && (B::T > 4)) check_blocks(w);
    Linear<B, 4, true>::run(w);
  }
  // Of many tokens a lane finds x by one address in the first block and constants, and asks for 16 bytes:
  // of words of 2 bytes for all its columns of a block, else for halves of two of them (packed_columns.cuh).
  static void check_blocks(const Work& w) {
    using P = typename B::prologue;
    const i64 block = P::x(w, 0, 32) - P::x(w, 0, 0), eight = P::x(w, 0, 8) - P::x(w, 0, 0);
    const bool halves = sizeof(typename P::X) == 2;
    for (int t = 0; t < B::T; ++t)
      for (int k = 0; k < B::K; ++k) {
        const int first = halves ? k % 32 / 8 * 8 : k % 32 / 16 * 16 + k % 8 / 4 * 4;
        const auto* from = P::x(w, t, first) + (k / 32 * block + (halves ? 0 : k % 16 / 8 * eight));
        if (P::x(w, t, k) != from + k % (halves ? 8 : 4)) std::abort();
        if (reinterpret_cast<std::uintptr_t>(from) % 16) std::abort();
      }
  }
};
template <class B>
struct DirectLinear : Linear<B, 1> {};

template <class B>
struct ExpertLinear {
  using P = typename B::prologue;
  static constexpr int E = B::aligned ? 16 / sizeof(typename B::Weight) : 1;
  static void run(const Work& w) {
    const int rows = std::min(B::ROWS, B::N - B::first_row(w.index));
    for (int t = 0; t < B::T; ++t)
      for (int row = 0; row < rows; ++row) {
        float y[B::J] = {};
        const int each = B::SLOTS / B::T;
        for (int s = t * each; s < (t + 1) * each; ++s) add(w, s, row, y);
        B::epilogue::store(w, t, row, y, mpk::inputs_of<typename B::epilogue>(w, t, row));
      }
  }
  static void add(const Work& w, int slot, int row, float (&y)[B::J]) {
    std::vector<float> x(B::K);
    for (int k = 0; k < B::K; k += E) {
      float v[E];
      P::load(w, slot / (B::SLOTS / B::X_ROWS), k, v);
      std::copy(v, v + E, &x[k]);
    }
    Linear<B, E>::template normalise<P>(w, x);
    float scale = 1;
    if constexpr (B::scaled) scale = B::factor(w, slot);
    for (int j = 0; j < B::J; ++j) {
      const auto* weight = B::row(w, j, B::expert(w, slot), row);
      for (int k = 0; k < B::K; ++k) y[j] += scale * x[k] * to_float(weight[k]);
    }
  }
};

enum class Scores { raw, softmax, softmax_of_chosen };
template <class B>
struct Topk {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row) {
      std::vector<int> order(B::WIDTH);
      for (int i = 0; i < B::WIDTH; ++i) order[i] = i;
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return B::x(w, row, a) > B::x(w, row, b); });
      const float top = B::x(w, row, order[0]);
      float total = 0;
      for (int c = 0; c < (B::scores == Scores::softmax ? B::WIDTH : B::COUNT); ++c)
        total += std::exp(B::x(w, row, order[c]) - top);
      for (int c = 0; c < B::COUNT; ++c) {
        const float x = B::x(w, row, order[c]);
        B::store(w, row, c, B::scores == Scores::raw ? x : std::exp(x - top) / total, order[c]);
      }
    }
  }
};

template <class B>
struct Attention {
  template <class P>
  static float weight(const Work& w, int d) {
    if constexpr (std::is_void_v<typename P::Scale>) return P::scale(w, d);
    else return to_float(P::scale_row(w)[d]);
  }
  template <class P>
  static void prepare(const Work& w, i64 position, std::vector<float>& x) {
    if constexpr (P::norm) {
      float mean, factor;
      statistics<Norm::rms>(B::D, P::eps, [&](int k) { return x[k]; }, mean, factor);
      for (int d = 0; d < B::D; ++d) x[d] *= factor * weight<P>(w, d);
    }
    const std::vector<float> old = x;
    for (int i = 0; i < P::R / 2 && P::rotary != Rotary::none; ++i) {
      const int a = P::rotary == Rotary::half ? i : 2 * i;
      const int b = P::rotary == Rotary::half ? i + P::R / 2 : 2 * i + 1;
      const float angle = float(position) * P::inv_freq(w)[i];
      x[a] = P::factor * (old[a] * std::cos(angle) - old[b] * std::sin(angle));
      x[b] = P::factor * (old[b] * std::cos(angle) + old[a] * std::sin(angle));
    }
  }
  template <class X, class Given>
  static std::vector<float> row(const Work& w, Given given) {
    std::vector<float> x(B::D);
    for (int d = 0; d < B::D; ++d) {
      if constexpr (std::is_void_v<X>) x[d] = given(d);
      else x[d] = read(given(d), w);
    }
    return x;
  }
  // An element of q, k or v, or its address.
  template <class A>
  static auto q(const Work& w, int t, int g, int d) {
    if constexpr (std::is_void_v<typename A::Query>) return A::q(w, t, g, d);
    else return A::q_row(w, t, g) + d;
  }
  template <class A>
  static auto k(const Work& w, int t, int d) {
    if constexpr (std::is_void_v<typename A::Key>) return A::k(w, t, d);
    else return A::k_row(w, t) + d;
  }
  template <class A>
  static auto v(const Work& w, int t, int d) {
    if constexpr (std::is_void_v<typename A::Value>) return A::v(w, t, d);
    else return A::v_row(w, t) + d;
  }
  static void run(const Work& w) {
    for (int t = 0; t < B::T; ++t) {
      const i64 position = w.position + t;
      std::vector<float> key = row<typename B::Key>(w, [&](int d) { return k<B>(w, t, d); });
      const std::vector<float> value = row<typename B::Value>(w, [&](int d) { return v<B>(w, t, d); });
      const int own = B::rows_before(w, position);
      if (B::rows_before(w, position + 1) == own) continue;
      prepare<typename B::k_prologue>(w, position, key);
      for (int d = 0; d < B::D; ++d) {
        store(B::k_cache(w) + B::offset(own) + d, key[d]);
        store(B::v_cache(w) + B::offset(own) + d, value[d]);
      }
    }
    for (int t = 0; t < B::T; ++t)
      for (int g = 0; g < B::G; ++g) head(w, t, g);
  }
  static void head(const Work& w, int t, int g) {
    const i64 own = w.position + t;
    std::vector<float> query = row<typename B::Query>(w, [&](int d) { return q<B>(w, t, g, d); });
    std::vector<float> y(B::D);
    prepare<typename B::q_prologue>(w, own, query);
    const int begin = B::WINDOW > 0 && own >= B::WINDOW ? B::rows_before(w, own + 1 - B::WINDOW) : 0;
    const int end = B::rows_before(w, own + 1);
    std::vector<float> scores;
    for (int p = begin; p < end; ++p) {
      float score = 0;
      for (int d = 0; d < B::D; ++d) score += B::scale * query[d] * to_float(B::k_cache(w)[B::offset(p) + d]);
      scores.push_back(B::soft_cap > 0 ? B::soft_cap * std::tanh(score / B::soft_cap) : score);
    }
    float top = -infinity(), sum = 0;
    for (float score : scores) top = std::max(top, score);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const float e = std::exp(scores[i] - top);
      sum += e;
      for (int d = 0; d < B::D; ++d) y[d] += e * to_float(B::v_cache(w)[B::offset(begin + i) + d]);
    }
    if constexpr (B::split) {
      B::store_stats(w, t, g, 0, top), B::store_stats(w, t, g, 1, sum);
      if (B::rows_before(w, w.position + B::T) == 0) return;
      for (int d = 0; d < B::D; ++d) B::store_acc(w, t, g, d, y[d]);
    } else if constexpr (B::joins) {
      float largest = top;
      for (int i = 0; i < B::SPLITS; ++i) largest = std::max(largest, read(B::stats(w, g, i), w));
      const float own = std::exp(top - largest);
      sum *= own;
      for (float& each : y) each *= own;
      for (int i = 0; i < B::SPLITS; ++i) {
        const float keep = std::exp(read(B::stats(w, g, i), w) - largest);
        sum += keep * read(B::stats(w, g, i) + 1, w);
        for (int d = 0; d < B::D && i < B::parts(w); ++d) y[d] += keep * read(B::acc(w, g, i) + d, w);
      }
      for (int d = 0; d < B::D; ++d) B::store(w, t, g, d, y[d] / sum);
    } else {
      for (int d = 0; d < B::D; ++d) B::store(w, t, g, d, y[d] / sum);
    }
  }
};

template <class B>
struct AttentionMerge {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row)
      for (int d = 0; d < B::D; ++d) {
        float top = -infinity(), sum = 0, y = 0;
        for (int i = 0; i < B::SPLITS; ++i) top = std::max(top, read(B::stats(w, row, i), w));
        for (int i = 0; i < B::SPLITS; ++i) {
          const float keep = std::exp(read(B::stats(w, row, i), w) - top);
          sum += keep * read(B::stats(w, row, i) + 1, w);
          if (i < B::parts(w)) y += keep * read(B::acc(w, row, i) + d, w);
        }
        B::store(w, row, d, y / sum);
      }
  }
};

template <class B>
struct Sdpa {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row) {
      std::vector<float> weights(B::L);
      float top = -infinity(), sum = 0;
      for (int j = 0; j < B::L; ++j) {
        weights[j] = B::bias(w, row, j);
        for (int d = 0; d < B::D; ++d) weights[j] += B::scale * B::q(w, row, d) * B::k(w, row, j, d);
        top = std::max(top, weights[j]);
      }
      for (float& weight : weights) sum += weight = std::exp(weight - top);
      for (int d = 0; d < B::D; ++d) {
        float y = 0;
        for (int j = 0; j < B::L; ++j) y += weights[j] * B::v(w, row, j, d);
        B::store(w, row, d, y / sum);
      }
    }
  }
};

template <class B>
struct Embedding {
  static void run(const Work& w) {
    for (int t = 0; t < B::T; ++t)
      for (int c = 0; c < B::COLUMNS; c += B::stores_eight ? 8 : 1) {
        if constexpr (B::stores_eight) {
          float value[8];
          for (int e = 0; e < 8; ++e) value[e] = element<B>(w, t, c + e);
          B::store_eight(w, t, c, value);
        } else {
          B::store(w, t, c, element<B>(w, t, c));
        }
      }
  }
  template <class A>
  static float element(const Work& w, int t, int c) {
    const i64 id = std::clamp<i64>(A::id(w, t), 0, A::LIMIT - 1);
    if constexpr (std::is_void_v<typename A::Element>) return A::element(w, id, c);
    else return to_float(A::eight(w, id, c / 8 * 8)[A::packed ? packed_place<32>(0, c % 8) : c % 8]);
  }
};

template <class B>
void append_tokens(const Work& w, const std::vector<i64>& chosen) {
  const i64 at = w.position + B::T;
  if (at >= B::capacity) return;
  int ended = 0;
  for (int b = 0; b < B::SEQUENCES; ++b) {
    i64* place = B::sequence(w) + b * B::capacity + at;
    bool ends = B::marks && *place == -2;
    if (*place == -1) *place = chosen[b], ends = B::stops(chosen[b]);
    if (B::marks && ends && at + B::T < B::capacity) place[B::T] = -2;
    ended += ends;
  }
  if (ended == B::SEQUENCES) *w.stop_at = std::min(*w.stop_at, w.step + 1);
}
template <class B>
struct ArgmaxPartial {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row)
      for (int chunk = 0; chunk < B::CHUNKS; ++chunk) {
        const i64 first = i64(B::origin(w) + chunk) * B::CHUNK;
        if (first >= B::WIDTH) continue;
        int best = 0;
        const int base = chunk * B::CHUNK;
        for (int i = 1; i < B::CHUNK && first + i < B::WIDTH; ++i)
          if (element<B>(w, row, base + i) > element<B>(w, row, base + best)) best = i;
        B::store(w, row, chunk, element<B>(w, row, base + best), first + best);
      }
  }
  template <class A>
  static float element(const Work& w, int row, int i) {
    if constexpr (std::is_void_v<typename A::X>) return A::x(w, row, i);
    else return read(A::four(w, row, i / 4 * 4) + i % 4, w);
  }
};
template <class B>
struct ArgmaxJoin {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row)
      for (int chunk = 0; chunk < B::CHUNKS; ++chunk) {
        const int first = chunk * B::CHUNK, left = B::COUNT - B::origin(w) * B::CHUNK - first;
        if (left <= 0) continue;
        int best = first;
        for (int i = first; i < first + std::min(left, B::CHUNK); ++i)
          if (B::value(w, row, i) > B::value(w, row, best)) best = i;
        B::store(w, row, chunk, B::value(w, row, best), B::index(w, row, best));
      }
  }
};
template <class B>
struct ArgmaxMerge {
  static void run(const Work& w) {
    std::vector<i64> chosen;
    for (int row = 0; row < B::ROWS; ++row) {
      int best = 0;
      for (int i = 1; i < B::COUNT; ++i)
        if (B::value(w, row, i) > B::value(w, row, best)) best = i;
      B::store(w, row, B::index(w, row, best));
      if constexpr (B::append) {
        if ((row + 1) % (B::ROWS / B::SEQUENCES) == 0) chosen.push_back(B::index(w, row, best));
      }
    }
    if constexpr (B::append) append_tokens<B>(w, chosen);
  }
};
template <class B>
struct SequenceAppend {
  static void run(const Work& w) {
    std::vector<i64> chosen;
    for (int b = 0; b < B::SEQUENCES; ++b) chosen.push_back(B::token(w, b));
    append_tokens<B>(w, chosen);
  }
};

template <class B>
struct Pointwise {
  static void run(const Work& w) {
    for (int i = 0; i < B::COUNT; ++i) B::element(w, i);
  }
};
template <class B>
struct Matmul {
  static void run(const Work& w) {
    for (int i = 0; i < B::COUNT; ++i) {
      float y = 0;
      for (int k = 0; k < B::K; ++k) y += B::a(w, i, k) * B::b(w, i, k);
      B::store(w, i, y);
    }
  }
};
template <class B, Norm KIND>
struct RowNorm {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row) {
      float mean, factor;
      statistics<KIND>(B::K, B::eps, [&](int k) { return B::load(w, row, k); }, mean, factor);
      for (int k = 0; k < B::K; ++k) {
        float y = (B::load(w, row, k) - mean) * factor * B::scale(w, k);
        if constexpr (KIND == Norm::layer) y += B::shift(w, k);
        B::store(w, row, k, y);
      }
    }
  }
};
template <class B>
using RmsNorm = RowNorm<B, Norm::rms>;
template <class B>
using LayerNorm = RowNorm<B, Norm::layer>;
template <class B>
struct RowSoftmax {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row) {
      float top = -infinity(), sum = 0;
      for (int k = 0; k < B::K; ++k) top = std::max(top, B::load(w, row, k));
      for (int k = 0; k < B::K; ++k) sum += std::exp(B::load(w, row, k) - top);
      for (int k = 0; k < B::K; ++k) B::store(w, row, k, std::exp(B::load(w, row, k) - top) / sum);
    }
  }
};
template <class B, int KIND>
struct Reduce {
  static void run(const Work& w) {
    for (int row = 0; row < B::ROWS; ++row) {
      float y = B::load(w, row, 0);
      for (int k = 1; k < B::K; ++k) {
        const float v = B::load(w, row, k);
        y = KIND == 0 ? y + v : KIND == 1 ? std::max(y, v) : std::min(y, v);
      }
      B::store(w, row, 0, y * B::factor);
    }
  }
};
template <class B>
using ReduceSum = Reduce<B, 0>;
template <class B>
using ReduceMax = Reduce<B, 1>;
template <class B>
using ReduceMin = Reduce<B, 2>;

template <class... B>
struct Bodies {};
struct Visitor {
  const Work& work;
  template <class B>
  void visit() { B::run(work); }
};

}  // namespace mpk

#define MPK_KERNEL(program)                                                                      \
  extern "C" void run_task(int body, int index, void** operands, long long position, int step,  \
                           int* stop_at) {                                                       \
    mpk::Work work{operands, position, index, step, stop_at};                                    \
    mpk::Visitor visitor{work};                                                                  \
    program::dispatch(body, visitor);                                                            \
  }
