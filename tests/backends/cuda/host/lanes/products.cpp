// Products over packed weights, lane by lane, against a plain loop in fp64: x of one and of several
// tokens, in one pass and in many, with a norm and without, in marked words, in
// brief ones and plain. Prints the
// largest error of each case and exits with 1 if one is too large.
#include <map>
#include <random>

#include "tagged.cuh"

// An element that does not come before it has been asked for a few times, by each lane.
struct Late {
  mpk::u32 word;
};
template <int N>
struct mpk::Fetched<Late, N> {
  static inline std::map<std::pair<int, const Late*>, int> asked;
  bool there = false;
  Late word[N];
  void request(const Late* address) {
    check_aligned(address, N * sizeof(Late));
    there = ++asked[{threadIdx.x, address}] > 1 + (threadIdx.x + address->word / 65536) % 3;
    std::copy(address, address + N, word);
  }
  bool arrived(u32) const { return there; }
  float get(int i) const { return there ? __uint_as_float(word[i].word & 0xffff0000u) : NAN; }
};

#include "packed_linear.cuh"

using mpk::bf16, mpk::Brief, mpk::i64, mpk::Tagged, mpk::Work;

// What is compared of results: few different numbers, and some that are none.
float coarse(float v) {
  const float steps = std::round(v / 16);
  return steps == 2 ? NAN : steps;
}

// S: what a case is. Operands: x, weights (J of them), norm weights, y, what is added to it, and the best of
// S::best neighbours of y, if it is not 0: these and where they are.
template <class S>
struct Body : S {
  using S::T, S::K, S::N, S::ROWS, S::J;
  using Weight = bf16;
  static constexpr int STAGE_ROWS = 8;
  static constexpr bool same_x = true, polls = true;
  static int weight(int j) { return 1 + j; }
  static int first_row(int index) { return index * ROWS; }
  struct prologue {
    static constexpr mpk::Norm norm = S::norm ? mpk::Norm::rms : mpk::Norm::none;
    static constexpr bool direct = true, exact = S::exact;
    static constexpr float eps = 1e-5f;
    using X = typename S::X;
    static const X* x(const Work& w, int t, int k) { return w.at<X>(0) + S::place(t * K + k); }
    template <int E>
    static void load(const Work&, int, int, float (&)[E]) {}
    using Scale = bf16;
    static const bf16* scale_row(const Work& w) { return w.at<bf16>(3); }
    template <int E>
    static void scale(const Work& w, int k, float (&g)[E]) {
      mpk::load_constant_vector<bf16, E>(w.at<bf16>(3) + k).unpack(g);
    }
  };
  struct epilogue {
    static float& y(const Work& w, int operand, int t, int row) {
      return w.at<float>(operand)[t * N + w.index * ROWS + row];
    }
    struct Nothing {
      void request(const Work&, int, int) {}
      bool arrived(mpk::u32) const { return true; }
    };
    // There when it is looked at for the second time.
    struct Added {
      float value;
      int requests = 0;
      void request(const Work& w, int t, int row) { value = ++requests > 1 ? y(w, 5, t, row) : NAN; }
      bool arrived(mpk::u32) const { return requests > 1; }
    };
    using Inputs = std::conditional_t<S::adds, Added, Nothing>;
    static float store(const Work& w, int t, int row, const float (&sum)[J], const Inputs& in) {
      float result = sum[0];
      if constexpr (J == 2) result *= sum[1];
      if constexpr (S::adds) result += in.value;
      float& place = y(w, 4, t, row);
      if (place == place) fibers::fail("an element is stored twice");
      place = result;
      return coarse(result);
    }
  };
};
template <class S>
struct Keeping : Body<S> {
  static constexpr int BEST = S::best, CHUNKS = S::N / BEST;
  static void keep(const Work& w, int t, int chunk, float value, i64 index) {
    const int at = t * CHUNKS + w.index * (S::ROWS / BEST) + chunk;
    if (w.at<i64>(7)[at] >= 0) fibers::fail("a candidate is stored twice");
    w.at<float>(6)[at] = value, w.at<i64>(7)[at] = index;
  }
};

// What the loader asked for.
struct Stage {
  const char* source;
  int bytes;
};

// A worker whose stages are all there: of tasks [0, works), one after another.
struct Worker {
  std::vector<Work> works;
  std::vector<Stage> stages;
  std::vector<std::vector<float>> partials;
  std::vector<char> scratch;
  int scratch_of_warp = 0;

  int lane = 0;
  // Behind a full ring the loader looks for the stages that come next: of the task that it is at, and of
  // those behind.
  struct Upcoming {
    const Worker* all;
    int task;
    const Work* at(int n) const { return task + n < int(all->works.size()) ? &all->works[task + n] : nullptr; }
  } tasks{this, 0};
  std::vector<std::pair<int, const char*>> expected;
  static constexpr bool looks = true;
  bool issue(const char* source, int bytes) {
    stages.push_back({source, bytes});
    return true;
  }
  template <class Next>
  bool issue(const char* source, int bytes, Next upcoming) {
    for (int k = 0; k < 12; ++k)
      if (const char* p = upcoming(k)) expected.push_back({int(stages.size()) + k, p});
      else if (k == 0) fibers::fail("the loader does not know where it is");
    return issue(source, bytes);
  }
  void check_expected() const {
    for (const auto& [stage, source] : expected)
      if (stage >= int(stages.size()) || stages[stage].source != source)
        fibers::fail("another stage was looked for than came");
  }
};
struct Lane {
  Worker& all;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, task = 0, stage = 0;

  const Work& work() const { return all.works[task]; }
  bool wait_ready() { return true; }
  void wait_published() {}
  void wait_filled() {}
  void finish_task() { ++task; }
  char* own_scratch() { return all.scratch.data() + warp * all.scratch_of_warp; }
  float* partial() { return all.partials[task].data(); }
  void hand_over() { __syncwarp(); }
  const char* wait_stage() { return all.stages[stage].source; }
  int take_stage() { return stage++; }
  void release_stage() { release_stage(take_stage()); }
  void release_stage(int) { __syncwarp(); }
  // As the publisher.
  const float* wait_partial() { return all.partials[task].data(); }
  void published(const Work&) { ++task; }
};

bool all_right = true;

// Whether the candidates are the best of their neighbours, the first of equals and of NaNs.
template <class S>
bool are_best(const std::vector<float>& y, const std::vector<float>& values, const std::vector<i64>& indices) {
  const int best = S::best > 0 ? S::best : S::N + 1;
  for (int at = 0; at < S::T * (S::N / best); ++at) {
    const float* from = &y[at * best];
    const auto above = [&](int a, int b) {
      const float x = coarse(from[a]), z = coarse(from[b]);
      return x > z || (x != x && z == z);
    };
    int first = 0;
    for (int i = 1; i < best; ++i)
      if (above(i, first)) first = i;
    const float wanted = coarse(from[first]);
    if (indices[at] != first || (wanted == wanted ? values[at] != wanted : values[at] == values[at])) return false;
  }
  return true;
}

template <class S>
void check(const char* name) {
  using B = std::conditional_t<(S::best > 0), Keeping<S>, Body<S>>;
  using L = mpk::PackedLinear<B>;
  constexpr int T = S::T, K = S::K, N = S::N, J = S::J;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto number = [&] { return mpk::convert<bf16>(normal(random)); };
  std::vector<bf16> weights[2], gain(K + 8);
  for (auto& weight : weights) {
    weight.resize(N * K + 8);
    for (bf16& w : weight) w = number();
  }
  for (bf16& g : gain) g = number();
  int room = 0;
  for (int i = 0; i < T * K; ++i) room = std::max(room, S::place(i) + 64);
  std::vector<typename S::X> x(room);
  std::vector<float> y(T * N, NAN), added(T * N), exact(T * K);
  for (float& a : added) a = normal(random);
  std::vector<float> values(T * N, NAN);
  std::vector<i64> indices(T * N, -1);
  Work work{};
  // Aligned as buffers are; vectors of the standard library are aligned to 16 bytes.
  void* operands[] = {x.data(), weights[0].data(), weights[1].data(), gain.data(), y.data(), added.data(),
                      values.data(), indices.data()};
  for (int i = 0; i < 8; ++i) work.operand[i] = operands[i];
  if (J == 1) work.operand[2] = gain.data();
  work.tag = 77;
  for (int i = 0; i < T * K; ++i) {
    const bf16 v = i == S::lost ? mpk::convert<bf16>(S::lost % 2 ? NAN : -INFINITY) : number();
    exact[i] = i == S::lost ? NAN : mpk::to_float(v);
    S::put(x.data() + S::place(i), v, work);
  }
  Worker worker;
  for (int i = 0; i * S::ROWS < N; ++i) {
    work.index = i;
    worker.works.push_back(work);
    worker.partials.emplace_back(L::partial_bytes / 4, NAN);
  }
  for (const Work& each : worker.works) {
    L::load(worker, each);
    ++worker.tasks.task;
  }
  worker.check_expected();
  if (L::S::PASSES == 1 && worker.expected.size() < worker.stages.size()) fibers::fail("nothing was looked for");
  work.body = -1;
  worker.works.push_back(work);
  worker.scratch_of_warp = (L::scratch_bytes / 8 + 15) / 16 * 16;
  worker.scratch.resize(worker.scratch_of_warp * 8 + 16);
  std::vector<int> read(256);
  fibers::run([&] {
    Lane lane{worker};
    while (lane.work().body >= 0) L::compute(lane);
    read[threadIdx.x] = lane.stage;
  });
  for (int stages : read)
    if (stages != int(worker.stages.size())) fibers::fail("not all stages are read");
  fibers::run([&] {
    if (threadIdx.x >= 32) return;
    Lane lane{worker};
    while (lane.work().body >= 0) L::publish(lane, lane.work());
  });
  double worst = 0;
  for (int t = 0; t < T; ++t) {
    double squares = 0;
    for (int k = 0; k < K; ++k) squares += double(exact[t * K + k]) * exact[t * K + k];
    const double factor = S::norm ? 1 / std::sqrt(squares / K + 1e-5) : 1;
    for (int n = 0; n < N; ++n) {
      double sum[2] = {};
      for (int j = 0; j < J; ++j)
        for (int k = 0; k < K; ++k) {
          const int among[] = {0, 1, 4, 5, 2, 3, 6, 7};
          const int at = (n / 8 * (K / 32) + k / 32) * 256 + n % 8 * 32 + k % 32 / 8 * 8 + among[k % 8];
          sum[j] += mpk::to_float(weights[j][at]) * exact[t * K + k] *
                    (S::norm ? mpk::to_float(gain[k]) : 1.0f);
        }
      double wanted = sum[0] * factor;
      if (J == 2) wanted *= sum[1] * factor;
      if (S::adds) wanted += added[t * N + n];
      const double error = std::abs(wanted - y[t * N + n]) / (J == 2 ? K : std::sqrt(K));
      const bool is_number = wanted == wanted, was_number = y[t * N + n] == y[t * N + n];
      worst = std::max(worst, is_number && was_number ? error : is_number == was_number ? 0 : 1e9);
    }
  }
  const bool right = worst < (S::norm ? 0.03 : 1e-4) && are_best<S>(y, values, indices);
  std::printf("%-24s %.2g%s\n", name, worst, right ? "" : " too much");
  all_right = all_right && right;
}

struct Marked {
  static constexpr int T = 8, K = 1024, N = 32, ROWS = 16, J = 1, PARTS = 1;
  static constexpr bool norm = true, adds = false, exact = false;
  static constexpr int best = 0, lost = -1;  // element of x that is no number
  using X = Tagged<bf16>;
  static int place(int i) { return i; }
  static void put(X* p, bf16 v, const Work& w) { mpk::publish(p, mpk::to_float(v), w); }
};
struct One : Marked {
  static constexpr int T = 1, PARTS = 2, J = 2;
};
struct Two : One {
  static constexpr int T = 2;
};
struct Four : Two {
  static constexpr int T = 4, N = 48, ROWS = 24;
};
struct Three : Marked {
  static constexpr int T = 3, PARTS = 2;
};
struct Five : Marked {
  static constexpr int T = 5, PARTS = 2;
  static constexpr bool adds = true;
};
struct Eight : Marked {
  static constexpr int K = 512, PARTS = 2, J = 2;
};
struct Apart : Eight {  // 16 elements to a line of 32
  static int place(int i) { return i / 16 * 32 + i % 16; }
};
struct EightLong : Marked {
  static constexpr int K = 6144, PARTS = 6, N = 16;
  static constexpr bool norm = false, adds = true;
};
struct LongNorm : EightLong {
  static constexpr bool norm = true;
};
struct FiveLong : LongNorm {
  static constexpr int T = 5;
};
struct FewBlocks : Marked {  // not each warp has as many
  static constexpr int K = 320;
};
struct FewBlocksFive : FewBlocks {
  static constexpr int T = 5;
};
struct Twelve : Eight {
  static constexpr int T = 12;
};
struct TwelveLong : LongNorm {
  static constexpr int T = 12;
};
struct Thirteen : Marked {
  static constexpr int T = 13;
};
struct Sixteen : Marked {
  static constexpr int T = 16, K = 512, J = 2;
};
struct SixteenLong : EightLong {
  static constexpr int T = 16;
};
struct FourLong : EightLong {
  static constexpr int T = 4, K = 10240, PARTS = 10;
};
template <class S>
struct Lately : S {
  using X = Late;
  static void put(X* p, bf16 v, const Work& w) { mpk::publish(reinterpret_cast<Tagged<bf16>*>(p), mpk::to_float(v), w); }
};
template <class S>
struct Briefly : S {
  using X = Brief<bf16>;
  static void put(X* p, bf16 v, const Work& w) { mpk::publish(p, mpk::to_float(v), w); }
};
struct BriefApart : Briefly<Eight> {  // 8 elements to a line of 64
  static int place(int i) { return i / 8 * 64 + i % 8; }
};
template <class S, int G>  // 8 or 16 tokens of G columns, then the next columns
struct Panels : S {
  static int place(int i) { return at(i / S::K, i % S::K); }
  static int at(int t, int k) { return k / G * (G * ((S::T + 7) / 8 * 8)) + t * G + k % G; }
};
struct OneExact : EightLong {
  static constexpr int T = 1;
  static constexpr bool exact = true;
};
struct OneLongest : OneExact {  // in five passes of as many parts
  static constexpr int K = 25600, PARTS = 25;
};
struct OneUneven : OneExact {  // in passes of eight parts, and one of five
  static constexpr int K = 29 * 1024, PARTS = 29;
};
struct OneLongNorm : OneExact {
  static constexpr int K = 16384, PARTS = 16;
  static constexpr bool norm = true, exact = false;
};
struct BriefApartOne : Briefly<OneExact> {  // 24 elements to a line of 64
  static int place(int i) { return i / 24 * 64 + i % 24; }
};
struct Plain : Marked {
  static constexpr int K = 512, T = 8;
  using X = bf16;
  static void put(X* p, bf16 v, const Work&) { *p = v; }
};

template <class S, int B, int R = S::ROWS, int ALL = S::N>
struct Best : S {
  static constexpr int best = B, ROWS = R, N = ALL;
};

template <class S, int AT>
struct Lost : S {
  static constexpr int lost = AT;
};

// Whose compute warps take over registers.
static_assert(mpk::PackedLinear<Body<OneLongest>>::in_passes && mpk::PackedLinear<Body<OneLongNorm>>::in_passes);
static_assert(!mpk::PackedLinear<Body<One>>::in_passes && !mpk::PackedLinear<Body<SixteenLong>>::in_passes);

int main() {
  check<One>("one token");
  check<Two>("two");
  check<Four>("four");
  check<FourLong>("four, long");
  check<Five>("five");
  check<Marked>("eight");
  check<Eight>("eight, two weights");
  check<Apart>("eight, apart");
  check<EightLong>("eight, long");
  check<LongNorm>("eight, long, norm");
  check<FewBlocks>("eight, few blocks");
  check<Twelve>("twelve, two weights");
  check<Thirteen>("thirteen");
  check<Sixteen>("sixteen");
  check<SixteenLong>("sixteen, long");
  check<Plain>("eight, plain");
  check<Briefly<One>>("one, brief");
  check<BriefApartOne>("one, exact, brief, apart");
  check<OneLongest>("one, exact, longest");
  check<OneUneven>("one, exact, passes not alike");
  check<OneLongNorm>("one, long, norm");
  check<Briefly<Two>>("two, brief");
  check<Briefly<FourLong>>("four, long, brief");
  check<Briefly<Five>>("five, brief");
  check<Briefly<Eight>>("eight, brief");
  check<BriefApart>("eight, brief, apart");
  check<Briefly<LongNorm>>("eight, long, norm, brief");
  check<Briefly<FewBlocks>>("eight, few blocks, brief");
  check<Briefly<Thirteen>>("thirteen, brief");
  check<Briefly<SixteenLong>>("sixteen, long, brief");
  check<Panels<Briefly<Five>, 8>>("five, brief, panels");
  check<Panels<FiveLong, 8>>("five, long, norm, panels");
  check<Panels<Briefly<Eight>, 32>>("eight, brief, panels of 32");
  check<Panels<Eight, 8>>("eight, panels");
  check<Panels<Briefly<LongNorm>, 8>>("eight, long, norm, brief, panels");
  check<Panels<Briefly<Twelve>, 8>>("twelve, brief, panels");
  check<Panels<TwelveLong, 32>>("twelve, long, norm, panels of 32");
  check<Panels<Thirteen, 32>>("thirteen, panels of 32");
  check<Panels<Briefly<Sixteen>, 8>>("sixteen, brief, panels");
  check<Panels<Briefly<SixteenLong>, 8>>("sixteen, long, brief, panels");
  check<Panels<Briefly<TwelveLong>, 8>>("twelve, long, norm, brief, panels");
  check<Panels<Briefly<Three>, 8>>("three, brief, panels");
  check<Lost<Briefly<One>, 700>>("one, brief, no number");
  check<Lost<Panels<Briefly<Five>, 8>, 4 * Five::K + 1001>>("five, brief, panels, no number");
  check<Lost<Panels<Briefly<Eight>, 8>, 3 * Eight::K + 300>>("eight, brief, panels, no number");
  check<Lost<Briefly<EightLong>, 6 * EightLong::K + 5001>>("eight, long, brief, no number");
  check<Lost<Panels<Briefly<LongNorm>, 8>, 2 * LongNorm::K + 6143>>("eight, long, norm, brief, no number");
  check<Lost<Panels<Briefly<Sixteen>, 8>, 13 * Sixteen::K + 8>>("sixteen, brief, panels, no number");
  check<Lost<Briefly<SixteenLong>, 2 * SixteenLong::K + 77>>("sixteen, long, brief, no number");
  check<Lately<Four>>("four, late");
  check<Lately<Five>>("five, late");
  check<Lately<FiveLong>>("five, long, norm, late");
  check<Lately<FewBlocksFive>>("five, few blocks, late");
  check<Lately<Eight>>("eight, late");
  check<Lately<LongNorm>>("eight, long, norm, late");
  check<Lately<Twelve>>("twelve, two weights, late");
  check<Lately<TwelveLong>>("twelve, long, norm, late");
  check<Lately<Sixteen>>("sixteen, late");
  check<Best<One, 16>>("one, best of 16");
  check<Best<One, 32, 32>>("one, best of 32");
  check<Best<Briefly<Two>, 8>>("two, brief, best of 8");
  check<Best<Five, 24, 24, 72>>("five, best of 24");
  check<Best<Eight, 32, 64, 128>>("eight, best of 32");
  check<Best<LongNorm, 16, 32, 80>>("eight, long, norm, best of 16, not of all tasks as many");
  check<Best<Thirteen, 32, 32>>("thirteen, best of 32");
  check<Best<Briefly<Sixteen>, 32, 32>>("sixteen, brief, best of 32");
  check<Best<Sixteen, 8, 24, 48>>("sixteen, best of 8, of more than a warp has lanes");
  check<Best<Plain, 64, 64, 64>>("eight, plain, best of 64");
  return all_right ? 0 : 1;
}
