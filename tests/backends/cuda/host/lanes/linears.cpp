// Products over weights that lie as they are, in the ring or not, lane by lane, against a plain loop in fp64,
// and the best of neighbours among what they store.
#include <random>

#include "tagged.cuh"

#include "linear.cuh"

using mpk::bf16, mpk::i64, mpk::Work;

// What is compared of results: few different numbers, and some that are none.
float coarse(float v) {
  const float steps = std::round(v / 4);
  return steps == 2 ? NAN : steps;
}

// Operands: x [T, K], weights [N, K], norm weights [K], y [T, N], the best of each BEST of them and where.
template <int TOKENS, int DEPTH, int FEATURES, int ROWS_, int OF, bool SCALED = false, int PARTS_ = 1>
struct Body {
  static constexpr int T = TOKENS, K = DEPTH, N = FEATURES, ROWS = ROWS_, J = 1, BEST = OF;
  static constexpr int STAGE_ROWS = PARTS_ > 1 ? 1 : mpk::least(ROWS, 8), PARTS = PARTS_;
  static constexpr bool NORMED = SCALED, same_x = true;
  using Weight = bf16;
  static int weight(int) { return 1; }
  static int first_row(int index) { return index * ROWS; }
  struct prologue {
    static constexpr mpk::Norm norm = SCALED ? mpk::Norm::rms : mpk::Norm::none;
    static constexpr bool constant_scale = true;
    static constexpr float eps = 1e-5f;
    template <int E>
    static void load(const Work& w, int t, int k, float (&x)[E]) {
      for (int e = 0; e < E; ++e) x[e] = w.at<float>(0)[t * K + k + e];
    }
    template <int E>
    static void scale(const Work& w, int k, float (&g)[E]) {
      for (int e = 0; e < E; ++e) g[e] = w.at<float>(2)[k + e];
    }
  };
  struct epilogue {
    struct Inputs {
      void request(const Work&, int, int) {}
      bool arrived(mpk::u32) const { return true; }
    };
    static float store(const Work& w, int t, int row, const float (&y)[1], const Inputs&) {
      float& place = w.at<float>(3)[t * N + first_row(w.index) + row];
      if (place == place || first_row(w.index) + row >= N) fibers::fail("an element is stored twice, or not there");
      place = y[0];
      return coarse(y[0]);
    }
  };
  static void keep(const Work& w, int t, int chunk, float value, i64 index) {
    const int at = t * (N / BEST) + first_row(w.index) / BEST + chunk;
    if (w.at<i64>(5)[at] >= 0) fibers::fail("a candidate is stored twice");
    w.at<float>(4)[at] = value, w.at<i64>(5)[at] = index;
  }
};

struct Stage {
  const char* source;
  int bytes;
};
struct Shared {
  float reduce[2][mpk::COMPUTE_WARPS];
  std::vector<char> scratch;
  char* own_scratch(int) { return scratch.data(); }
};
struct Worker {
  std::vector<Work> works;
  std::vector<Stage> stages;
  std::vector<std::vector<float>> partials;
  Shared s;

  int lane = 0;
  bool issue(const char* source, int bytes) {
    stages.push_back({source, bytes});
    return true;
  }
};
struct Lane {
  Worker& all;
  Shared& s = all.s;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, task = 0, stage = 0, toggle = 0;

  const Work& work() const { return all.works[task]; }
  bool wait_ready() { return true; }
  void wait_published() {}
  void wait_filled() {}
  void finish_task() { ++task; }
  float* partial() { return all.partials[task].data(); }
  void hand_over() { __syncwarp(); }
  const char* wait_stage() { return all.stages[stage].source; }
  void release_stage() {
    __syncwarp();
    ++stage;
  }
  const float* wait_partial() { return all.partials[task].data(); }
  void published(const Work&) {
    __syncwarp();
    ++task;
  }
};

template <class L>
void run(Worker& worker) {
  if constexpr (L::streams) {
    for (const Work& work : worker.works)
      if (work.body >= 0) {
        L::load(worker, work);
        worker.partials.emplace_back(L::partial_bytes / 4, NAN);
      }
    worker.s.scratch.resize(L::scratch_bytes + 16);
    fibers::run([&] {
      Lane lane{worker};
      while (lane.work().body >= 0) L::compute(lane);
    });
    fibers::run([&] {
      if (threadIdx.x >= 32) return;
      Lane lane{worker};
      while (lane.work().body >= 0) L::publish(lane, lane.work());
    });
  } else {
    std::vector<char> scratch(L::scratch_bytes);
    for (const Work& work : worker.works)
      if (work.body >= 0) fibers::run([&] { L::run(work, {}, scratch.data()); });
  }
}

bool above(float a, float b) { return a > b || (a != a && b == b); }
bool all_right = true;

template <class L, class B>
void check(const char* name) {
  constexpr int T = B::T, K = B::K, N = B::N, BEST = B::BEST;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> weights(N * K);
  std::vector<float> x(T * K), gain(K), y(T * N, NAN), values(T * N / BEST, NAN);
  std::vector<i64> indices(T * N / BEST, -1);
  for (bf16& w : weights) w = mpk::convert<bf16>(normal(random));
  for (float& v : x) v = normal(random);
  for (float& g : gain) g = normal(random);
  Work work{};
  void* operands[] = {x.data(), weights.data(), gain.data(), y.data(), values.data(), indices.data()};
  for (int i = 0; i < 6; ++i) work.operand[i] = operands[i];
  Worker worker;
  for (; work.index * B::ROWS < N; ++work.index) worker.works.push_back(work);
  work.body = -1;
  worker.works.push_back(work);
  run<L>(worker);
  bool right = true;
  for (int t = 0; t < T; ++t) {
    double squares = 0;
    for (int k = 0; k < K; ++k) squares += double(x[t * K + k]) * x[t * K + k];
    const double factor = B::NORMED ? 1 / std::sqrt(squares / K + 1e-5) : 1;
    for (int n = 0; n < N; ++n) {
      double wanted = 0;
      for (int k = 0; k < K; ++k)
        wanted += mpk::to_float(weights[n * K + k]) * x[t * K + k] * (B::NORMED ? factor * gain[k] : 1.0);
      right = right && std::abs(wanted - y[t * N + n]) < 1e-4 * std::sqrt(K);
    }
  }
  for (int at = 0; at < T * N / BEST; ++at) {
    int first = 0;
    for (int i = 1; i < BEST; ++i)
      if (above(coarse(y[at * BEST + i]), coarse(y[at * BEST + first]))) first = i;
    const float wanted = coarse(y[at * BEST + first]);
    right = right && indices[at] == first && (values[at] == wanted || (values[at] != values[at] && wanted != wanted));
  }
  std::printf("%-40s %s\n", name, right ? "" : "wrong");
  all_right = all_right && right;
}
template <class B>
void both(const char* name) {
  check<mpk::RingLinear<B>, B>(name);
  check<mpk::DirectLinear<B>, B>(name);
}

int main() {
  both<Body<1, 256, 64, 32, 32>>("one token");
  both<Body<1, 256, 48, 32, 16, true>>("one token, norm, fewer rows in the last");
  both<Body<3, 512, 40, 20, 10>>("three tokens, best of 10");
  both<Body<3, 512, 48, 24, 8, true>>("three tokens, norm, best of 8");
  both<Body<40, 64, 64, 64, 64>>("forty tokens, best of 64");
  both<Body<2, 16384, 6, 6, 3, false, 2>>("two tokens, long");
  check<mpk::DirectLinear<Body<2, 21, 30, 15, 5>>, Body<2, 21, 30, 15, 5>>("rows of 21");
  return all_right ? 0 : 1;
}
