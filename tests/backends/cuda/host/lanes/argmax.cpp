// The parts of argmax, lane by lane, against a plain loop: the first of equals, a NaN above everything;
// candidates of parts of a row, joined by tasks of which the last has fewer, then merged.
#include <random>

#include "tagged.cuh"

namespace mpk {
inline void store_system(u64* place, u64 word) { *place = word; }
}  // namespace mpk
inline void atomicMin(int* place, int value) { *place = std::min(*place, value); }

#include "argmax.cuh"

using mpk::i64, mpk::Work;

bool above(float a, float b) { return a > b || (a != a && b == b); }

// S: rows of ALL candidates of PART elements each, CHUNKS joins of CHUNK candidates in a task.
// Operands: values and indices of the candidates, of what they are joined to, and of each row the index.
template <class S>
struct Join : S {
  using S::ROWS, S::CHUNKS, S::CHUNK, S::ALL, S::PART;
  static constexpr int COUNT = ALL, JOINED = mpk::ceil_div(ALL, CHUNK);
  static int origin(const Work& w) { return w.index * CHUNKS; }
  static int place(const Work& w, int row, int i) {
    const int at = origin(w) * CHUNK + i;
    if (i < 0 || i >= CHUNKS * CHUNK || at >= ALL) fibers::fail("a candidate that is not there is read");
    return row * ALL + at;
  }
  static float value(const Work& w, int row, int i) { return w.at<float>(0)[place(w, row, i)]; }
  static i64 index(const Work& w, int row, int i) {
    return w.at<i64>(1)[place(w, row, i)] + i64(origin(w) * CHUNK + i) * PART;
  }
  static void store(const Work& w, int row, int chunk, float value, i64 index) {
    const int at = origin(w) + chunk;
    if (at >= JOINED || w.at<i64>(3)[row * JOINED + at] != -1) fibers::fail("a place is not there, or taken");
    w.at<float>(2)[row * JOINED + at] = value, w.at<i64>(3)[row * JOINED + at] = index;
  }
};
template <class S>
struct Merge {
  static constexpr int ROWS = S::ROWS, COUNT = Join<S>::JOINED;
  static constexpr bool append = false;
  static float value(const Work& w, int row, int i) { return w.at<float>(2)[row * COUNT + i]; }
  static i64 index(const Work& w, int row, int i) { return w.at<i64>(3)[row * COUNT + i]; }
  static void store(const Work& w, int row, i64 index) { w.at<i64>(4)[row] = index; }
};

bool all_right = true;

template <class S>
void check(const char* name) {
  constexpr int ROWS = S::ROWS, ALL = S::ALL, PART = S::PART, JOINED = Join<S>::JOINED, LENGTH = ALL * PART;
  std::mt19937 random(1);
  bool right = true;
  for (int round = 0; round < 4; ++round) {
    std::vector<float> x(ROWS * LENGTH);
    for (float& v : x) v = round == 3 ? -INFINITY : float(int(random() % (round == 0 ? 1000 : 3))) - 1;
    if (round == 2) x[random() % x.size()] = x[random() % x.size()] = NAN;
    std::vector<float> value(ROWS * ALL), joined(ROWS * JOINED);
    std::vector<i64> index(ROWS * ALL), where(ROWS * JOINED, -1), chosen(ROWS, -1);
    for (int at = 0; at < ROWS * ALL; ++at) {
      for (int i = 1; i < PART; ++i)
        if (above(x[at * PART + i], x[at * PART + index[at]])) index[at] = i;
      value[at] = x[at * PART + index[at]];
    }
    Work work{};
    void* operands[] = {value.data(), index.data(), joined.data(), where.data(), chosen.data()};
    for (int i = 0; i < 5; ++i) work.operand[i] = operands[i];
    std::vector<char> scratch(mpk::ArgmaxMerge<Merge<S>>::scratch_bytes);
    for (; work.index * S::CHUNKS < JOINED; ++work.index)
      fibers::run([&] { mpk::ArgmaxJoin<Join<S>>::run(work, {}, scratch.data()); });
    fibers::run([&] { mpk::ArgmaxMerge<Merge<S>>::run(work, {}, scratch.data()); });
    for (int row = 0; row < ROWS; ++row) {
      int first = 0;
      for (int i = 1; i < LENGTH; ++i)
        if (above(x[row * LENGTH + i], x[row * LENGTH + first])) first = i;
      right = right && chosen[row] == first;
    }
  }
  std::printf("%-40s %s\n", name, right ? "" : "wrong");
  all_right = all_right && right;
}

template <int R, int A, int C, int EACH = 1, int P = 8>
struct Shape {
  static constexpr int ROWS = R, ALL = A, CHUNK = C, CHUNKS = EACH, PART = P;
};

int main() {
  check<Shape<1, 100, 32>>("a row");
  check<Shape<1, 33, 32>>("a row, one more than a chunk has");
  check<Shape<3, 128, 32>>("three rows");
  check<Shape<16, 70, 32>>("sixteen rows");
  check<Shape<17, 40, 7>>("seventeen rows, small chunks");
  check<Shape<2, 1000, 320>>("two rows, several candidates a lane");
  check<Shape<1, 600, 520, 1, 2>>("a row, more of them than at once");
  check<Shape<5, 90, 4, 3>>("five rows, three chunks a task, not all there");
  return all_right ? 0 : 1;
}
