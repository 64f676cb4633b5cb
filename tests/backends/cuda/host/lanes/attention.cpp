// Attention in chunks and its merge, lane by lane, against a plain loop in fp64. Prints the largest error
// of each case and exits with 1 if one is too large, or a cache holds what it should not.
#include <map>

#include "attention.cuh"
#include "attention_merge.cuh"

using mpk::bf16, mpk::i64, mpk::Rotary, mpk::Tagged, mpk::Work;

template <class X>
void put(X* p, float y, const Work&) { *p = mpk::convert<X>(y); }
template <class T>
void put(Tagged<T>* p, float y, const Work& w) { mpk::publish(p, y, w); }

// S: what a case is. One key head; operands: q, k, v, frequencies, k cache, v cache, acc, stats, two norm
// weights, result. Blocks of P rows are dealt to SPLITS chunks; a task's index is its chunk.
template <class S>
struct Body {
  static constexpr int T = S::T, D = S::D, G = S::G, WINDOW = S::WINDOW, P = S::P, SPLITS = S::SPLITS;
  static constexpr int CAPACITY = P * SPLITS * S::ROUNDS;
  static constexpr float scale = 0.1f, soft_cap = S::soft_cap;
  static constexpr bool split = true, joins = false, polled = !mpk::is_same<typename S::X, bf16>;
  using Cache = typename S::Cache;
  using Query = typename S::X;
  using Key = Query;
  using Value = Query;
  using Acc = typename S::Acc;
  static int rows_before(const Work& w, i64 position) {
    const int round = int(position / (P * SPLITS)), rest = int(position % (P * SPLITS)) - w.index * P;
    return round >= S::ROUNDS ? P * S::ROUNDS : round * P + std::clamp(rest, 0, P);
  }
  static Cache* k_cache(const Work& w) { return w.at<Cache>(4) + w.index * P * D; }
  static Cache* v_cache(const Work& w) { return w.at<Cache>(5) + w.index * P * D; }
  static constexpr int RUN = P;
  static int offset(int row) { return row / P * (SPLITS * P * D) + row % P * D; }
  static const Query* q_row(const Work& w, int t, int g) { return w.at<Query>(0) + (t * G + g) * D; }
  static const Query* k_row(const Work& w, int t) { return w.at<Query>(1) + t * D; }
  static const Query* v_row(const Work& w, int t) { return w.at<Query>(2) + t * D; }
  struct q_prologue {
    static constexpr bool norm = S::norm;
    static constexpr float eps = 1e-6f, factor = 1.25f;
    using Scale = bf16;
    static const bf16* scale_row(const Work& w) { return w.at<bf16>(8); }
    static constexpr Rotary rotary = S::rotary;
    static constexpr int R = S::R;
    static const float* inv_freq(const Work& w) { return w.at<float>(3); }
  };
  struct k_prologue : q_prologue {
    static const bf16* scale_row(const Work& w) { return w.at<bf16>(9); }
  };
  static void store_acc(const Work& w, int t, int g, int d, float y) {
    put(w.at<Acc>(6) + ((t * G + g) * SPLITS + w.index) * D + d, y, w);
  }
  static void store_stats(const Work& w, int t, int g, int i, float y) {
    put(w.at<Acc>(7) + ((t * G + g) * SPLITS + w.index) * 2 + i, y, w);
  }
};
template <class B>
struct Merge {
  static constexpr int ROWS = B::T * B::G, D = B::D, SPLITS = B::SPLITS;
  using Acc = typename B::Acc;
  using Stats = Acc;
  static const Acc* acc(const Work& w, int row, int split) { return w.at<Acc>(6) + (row * SPLITS + split) * D; }
  static const Acc* stats(const Work& w, int row, int split) { return w.at<Acc>(7) + (row * SPLITS + split) * 2; }
  static int parts(const Work& w) { return std::min<i64>(SPLITS, (w.position + B::T - 1) / B::P + 1); }
  static void store(const Work& w, int row, int d, float y) { w.at<float>(10)[row * D + d] = y; }
};

// The first chunk, by who joins the others.
template <class B>
struct Join : B {
  static constexpr bool split = false, joins = true;
  static constexpr int SPLITS = B::SPLITS - 1;
  using Stats = typename B::Acc;
  static const Stats* acc(const Work& w, int row, int split) {
    return w.at<Stats>(6) + (row * B::SPLITS + split + 1) * B::D;
  }
  static const Stats* stats(const Work& w, int row, int split) {
    return w.at<Stats>(7) + (row * B::SPLITS + split + 1) * 2;
  }
  static int parts(const Work& w) { return std::min<i64>(SPLITS, w.position / B::P); }
  static void store(const Work& w, int, int g, int d, float y) { w.at<float>(10)[g * B::D + d] = y; }
};

template <class X>
X* memory(std::size_t count) {
  void* p = std::aligned_alloc(256, (count * sizeof(X) + 255) / 256 * 256);
  std::memset(p, 0xff, count * sizeof(X));  // NaN, and no step's tag
  return static_cast<X*>(p);
}
float uniform() { return 4.0f * (std::rand() / float(RAND_MAX) - 0.5f); }
template <class X>
std::vector<float> filled(X* p, int count, const Work& w) {
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) put(p + i, values[i] = mpk::to_float(mpk::convert<bf16>(uniform())), w);
  return values;
}

template <class P>
std::vector<double> prepared(const float* x, const bf16* weight, const float* frequency, i64 position, int d) {
  std::vector<double> y(x, x + d);
  if (P::norm) {
    double sum = 0;
    for (double v : y) sum += v * v;
    for (int i = 0; i < d; ++i) y[i] *= mpk::to_float(weight[i]) / std::sqrt(sum / d + P::eps);
  }
  const std::vector<double> old = y;
  for (int i = 0; i < P::R / 2 && P::rotary != Rotary::none; ++i) {
    const int a = P::rotary == Rotary::half ? i : 2 * i, b = P::rotary == Rotary::half ? i + P::R / 2 : a + 1;
    const double angle = float(position) * frequency[i];
    y[a] = P::factor * (old[a] * std::cos(angle) - old[b] * std::sin(angle));
    y[b] = P::factor * (old[b] * std::cos(angle) + old[a] * std::sin(angle));
  }
  return y;
}

// Every row of the task that is in the cache was asked for ahead once, and nothing else: a step's own
// row is not there yet, and of several tokens only the loader asks.
template <class B>
void check_asked(const Work& w) {
  using A = mpk::Attention<B>;
  const i64 first = B::WINDOW ? std::max<i64>(0, w.position + 1 - B::WINDOW) : 0;
  const int from = B::rows_before(w, first), to = B::rows_before(w, w.position);
  std::map<std::uintptr_t, int> times;
  for (const auto& [begin, end] : mpk::asked_for)
    for (auto at = begin; at < end; at += 16) ++times[at];
  int wanted = 0;
  for (int row = from; row < (B::T == 1 ? to : std::min(to, from + A::AHEAD)); ++row)
    for (const auto* cache : {B::k_cache(w), B::v_cache(w)})
      for (int d = 0; d < B::D; d += 16 / int(sizeof *cache), ++wanted)
        if (times[reinterpret_cast<std::uintptr_t>(cache + B::offset(row) + d)] != 1)
          fibers::fail("a row was not asked for once");
  if (wanted != int(times.size())) fibers::fail("more was asked for than there is");
}

// The loader's side of a ring that has a slot for every stage: what is not copied is NaN.
struct RingStages {
  std::vector<std::vector<char>> slots;
  bool issue_both(const char* first, const char* second, int bytes) {
    if (bytes <= 0 || bytes % 16 || bytes > mpk::SLOT / 2) fibers::fail("a stage is too large");
    auto& slot = slots.emplace_back(mpk::SLOT, char(0xff));
    std::copy_n(first, bytes, slot.data());
    std::copy_n(second, bytes, slot.data() + mpk::SLOT / 2);
    return true;
  }
};
// A compute warp's side.
struct Stream {
  const RingStages& stages;
  std::size_t next = 0, there = 0;
  void wait_stages(int count) {
    if ((there = next + count) > stages.slots.size()) fibers::fail("waits for a stage that does not come");
  }
  const char* stage(int k) const {
    if (next + k >= there) fibers::fail("reads a stage that it has not waited for");
    return stages.slots[next + k].data();
  }
  void release_stages(int count) { next += count; }
};

// A task, by turns by compute warps alone, with what a warp of its own has prepared, and either with rows of
// the cache from a ring. Whether these came so.
template <class A>
bool run_task(const Work& w, char* scratch) {
  static int runs = 0;
  const int run = runs++;
  const bool is_prepared = A::is_prepared && run % 2, is_staged = A::stages::possible && run / 2 % 2;
  if constexpr (A::is_prepared) {
    if (is_prepared)
      fibers::run([&] {
        if (threadIdx.x < 32) A::prepare(w, scratch, threadIdx.x);
      });
  }
  const auto prepared = [] { mpk::compute_sync(); };
  if constexpr (A::stages::possible) {
    if (is_staged) {
      RingStages stages;
      A::stages::load(stages, w);
      fibers::run([&] {
        Stream role{stages};
        if (is_prepared) A::run_staged(w, {}, scratch, prepared, role);
        else A::run_staged(w, {}, scratch, nullptr, role);
        if (role.next != stages.slots.size()) fibers::fail("leaves a stage in the ring");
      });
      return true;
    }
  }
  if constexpr (A::is_prepared) {
    if (is_prepared) {
      fibers::run([&] { A::run_prepared(w, {}, scratch, prepared); });
      return false;
    }
  }
  fibers::run([&] { A::run(w, {}, scratch); });
  return false;
}

// The error of one step relative to the largest element.
template <class S>
double error_at(i64 position) {
  using B = Body<S>;
  using Cache = typename B::Cache;
  constexpr int D = B::D, G = B::G, T = B::T, SPLITS = B::SPLITS, CAPACITY = B::CAPACITY;
  Work w{};
  w.position = position, w.tag = 70001;
  auto *q = memory<typename S::X>(T * G * D), *k = memory<typename S::X>(T * D), *v = memory<typename S::X>(T * D);
  const auto queries = filled(q, T * G * D, w), keys = filled(k, T * D, w), values = filled(v, T * D, w);
  auto* frequency = memory<float>(D);
  for (int i = 0; i < D; ++i) frequency[i] = std::pow(1000.0f, -i / float(D));
  auto *norm_q = memory<bf16>(D), *norm_k = memory<bf16>(D);
  filled(norm_q, D, w), filled(norm_k, D, w);
  auto *k_cache = memory<Cache>(CAPACITY * D), *v_cache = memory<Cache>(CAPACITY * D);
  filled(k_cache, position * D, w), filled(v_cache, position * D, w);
  std::vector<Cache> old_k(k_cache, k_cache + CAPACITY * D), old_v(v_cache, v_cache + CAPACITY * D);
  auto *acc = memory<typename B::Acc>(T * G * SPLITS * D), *stats = memory<typename B::Acc>(T * G * SPLITS * 2);
  auto *y = memory<float>(T * G * D);
  void* operands[12] = {q, k, v, frequency, k_cache, v_cache, acc, stats, norm_q, norm_k, y};
  std::memcpy(w.operand, operands, sizeof operands);
  for (w.index = SPLITS - 1; w.index >= 0; --w.index) {
    char* scratch = memory<char>(mpk::Attention<B>::scratch_bytes);
    mpk::asked_for.clear();
    bool is_staged = false;
    if (S::joins && w.index == 0) {
      if constexpr (S::joins) is_staged = run_task<mpk::Attention<Join<B>>>(w, scratch);
    } else {
      is_staged = run_task<mpk::Attention<B>>(w, scratch);
    }
    std::free(scratch);
    if (is_staged && !mpk::asked_for.empty()) fibers::fail("what comes through the ring was asked for, too");
    if (is_staged) continue;
    for (int lane = 0; lane < 32; ++lane) mpk::Attention<B>::look_ahead(w, lane);
    check_asked<B>(w);
  }
  w.index = 0;
  char* scratch = memory<char>(mpk::AttentionMerge<Merge<B>>::scratch_bytes + 1);
  if (!S::joins) fibers::run([&] { mpk::AttentionMerge<Merge<B>>::run(w, {}, scratch); });

  for (int t = 0; t < T; ++t) {
    const auto row = prepared<typename B::k_prologue>(&keys[t * D], norm_k, frequency, position + t, D);
    for (int d = 0; d < D; ++d) {
      const int at = int(position + t) * D + d;
      if (std::abs(mpk::to_float(k_cache[at]) - row[d]) > 0.01 * (1 + std::abs(row[d]))) fibers::fail("wrong key");
      old_k[at] = k_cache[at], old_v[at] = mpk::convert<Cache>(values[t * D + d]);
    }
  }
  if (std::memcmp(old_k.data(), k_cache, sizeof(Cache) * CAPACITY * D) ||
      std::memcmp(old_v.data(), v_cache, sizeof(Cache) * CAPACITY * D))
    fibers::fail("a cache holds what it should not");
  double worst = 0, largest = 0;
  for (int row = 0; row < T * G; ++row) {
    const i64 own = position + row / G, first = B::WINDOW ? std::max<i64>(0, own + 1 - B::WINDOW) : 0;
    const auto query = prepared<typename B::q_prologue>(&queries[row * D], norm_q, frequency, own, D);
    std::vector<double> sum(D);
    double weight = 0;
    for (i64 p = first; p <= own; ++p) {
      double score = 0;
      for (int d = 0; d < D; ++d) score += B::scale * query[d] * mpk::to_float(k_cache[p * D + d]);
      if (B::soft_cap > 0) score = B::soft_cap * std::tanh(score / B::soft_cap);
      weight += std::exp(score);
      for (int d = 0; d < D; ++d) sum[d] += std::exp(score) * mpk::to_float(v_cache[p * D + d]);
    }
    for (int d = 0; d < D; ++d) {
      const double error = std::abs(sum[d] / weight - y[row * D + d]);
      worst = error <= worst ? worst : error;  // NaN stays
      largest = std::max(largest, std::abs(sum[d] / weight));
    }
  }
  for (void* p : operands) std::free(p);
  std::free(scratch);
  return worst / largest;
}

// A chunk beyond the step's position looks for nothing, which would not come here, and stores nothing.
template <class S>
void leave_alone() {
  using B = Body<S>;
  using Acc = typename B::Acc;
  const std::size_t rows = B::G * B::SPLITS;
  Work w{};
  w.position = B::P - 1, w.index = 1, w.tag = 70001;
  auto *acc = memory<Acc>(rows * B::D), *stats = memory<Acc>(rows * 2);
  const std::vector<unsigned char> old_acc(rows * B::D * sizeof(Acc), 0xff), old_stats(rows * 2 * sizeof(Acc), 0xff);
  auto *q = memory<typename S::X>(B::G * B::D), *row = memory<typename S::X>(B::D);
  void* operands[12] = {q, row, row, nullptr, nullptr, nullptr, acc, stats};
  std::memcpy(w.operand, operands, sizeof operands);
  char* scratch = memory<char>(mpk::Attention<B>::scratch_bytes);
  for (int turn = 0; turn < 4; ++turn) run_task<mpk::Attention<B>>(w, scratch);
  if (std::memcmp(acc, old_acc.data(), old_acc.size()) || std::memcmp(stats, old_stats.data(), old_stats.size()))
    fibers::fail("a chunk beyond the position has stored something");
  for (void* p : {(void*)acc, (void*)stats, (void*)q, (void*)row, (void*)scratch}) std::free(p);
}

bool all_right = true;
template <class S>
void check(const char* name) {
  double worst = 0;
  constexpr int last = Body<S>::CAPACITY - S::T;
  for (int position : {0, 1, 15, 16, 31, 32, 33, 100, 127, 128, 129, 321, last}) {
    if (position > last || (position > 100 && position < last && !S::goes)) continue;
    const double error = error_at<S>(position);
    worst = error <= worst ? worst : error;
  }
  std::printf("%s: %g\n", name, worst);
  all_right = all_right && worst < 3e-5;
}

struct Plain {
  static constexpr int T = 1, D = 64, G = 4, R = 64, WINDOW = 0, P = 16, SPLITS = 4, ROUNDS = 2;
  static constexpr float soft_cap = 0;
  static constexpr bool norm = true, joins = false, goes = false;  // goes: rows enough for several
  static constexpr Rotary rotary = Rotary::half;
  using X = bf16;
  using Acc = float;
  using Cache = bf16;
};
struct Flagged : Plain {
  static constexpr int D = 128, G = 2, R = 128, P = 32;
  using X = Tagged<bf16>;
  using Acc = Tagged<float>;
};
struct ManyHeads : Flagged {
  static constexpr int G = 16;
  using X = Tagged<float>;
};
struct MoreHeads : Plain {
  static constexpr int G = 40;
};
struct Tiny : Flagged {
  static constexpr int D = 8, G = 3, R = 8, P = 16;
};
struct Odd : Plain {
  static constexpr int D = 80, G = 7, R = 24, P = 20;
  static constexpr bool norm = false;
};
struct Window : Plain {
  static constexpr int D = 256, G = 5, R = 64, WINDOW = 20;
  static constexpr float soft_cap = 3;
  static constexpr Rotary rotary = Rotary::interleaved;
  using Cache = float;
};
struct Tokens : Plain {
  static constexpr int T = 3, G = 5, WINDOW = 9;
  using X = Tagged<bf16>;
};
struct ManyChunks : Flagged {
  static constexpr int D = 64, G = 1, R = 64, P = 4, SPLITS = 64;
  static constexpr Rotary rotary = Rotary::none;
};
struct Joined : Flagged {
  static constexpr bool joins = true;
};
struct JoinedHeads : Plain {
  static constexpr int G = 40, WINDOW = 20, SPLITS = 6;
  static constexpr bool joins = true;
};
struct JoinedMany : Flagged {
  static constexpr int G = 7, P = 4, SPLITS = 40, D = 96, R = 32;
  static constexpr bool joins = true;
  using Cache = float;
};
// So many rows that a warp has several goes.
struct Long : Joined {
  static constexpr int D = 64, G = 4, R = 64, P = 104, SPLITS = 2, ROUNDS = 6;
};
// Whole stages of the ring, several goes of them.
struct Stages64 : Long {
  static constexpr int P = 64, ROUNDS = 4;
  static constexpr bool goes = true;
};
struct Stages128 : Joined {
  static constexpr int G = 4, P = 96, SPLITS = 2, ROUNDS = 3;
  static constexpr bool goes = true;
};
struct LongWindow : Joined {
  static constexpr int P = 48, SPLITS = 2, ROUNDS = 8, WINDOW = 500;
};

int main() {
  leave_alone<Flagged>();
  leave_alone<Plain>();
  check<Plain>("plain");
  check<Flagged>("flagged");
  check<ManyHeads>("many heads");
  check<MoreHeads>("more heads");
  check<Tiny>("tiny");
  check<Odd>("odd");
  check<Window>("window");
  check<Tokens>("tokens");
  check<ManyChunks>("many chunks");
  check<Joined>("joined");
  check<JoinedHeads>("joined, more heads");
  check<JoinedMany>("joined, many chunks");
  check<Long>("long");
  check<Stages64>("stages of 64 rows");
  check<Stages128>("stages of 32 rows");
  static_assert(mpk::Attention<Body<Stages64>>::stages::possible && mpk::Attention<Body<Stages128>>::stages::possible);
  check<LongWindow>("long, window");
  return all_right ? 0 : 1;
}
