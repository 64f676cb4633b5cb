// The ring's loader, lane by lane, beside a memory and a reader of stages that go by a clock of their own:
// where and when each stage is copied, and what L2 is asked for. A copy's instructions are copy() here
// (test_lanes.py). Prints what came of each case and exits with 1 at the first thing that is wrong.
#include <random>
#include <type_traits>

#include "queue.cuh"

namespace mpk {

// Others go on before a lane looks again, at the clock or at a barrier.
inline u64 now;  // in cycles, one for each time that all lanes have gone on
inline u32 cycles() {
  fibers::change();
  return u32(now);
}

struct Barrier {
  int arrivals, missing;
  u32 phase = 0;
  void init(int count) { arrivals = missing = count; }
  void arrive() {
    if (--missing == 0) missing = arrivals, phase ^= 1;
  }
  bool passed_now(u32 parity) {
    fibers::change();
    return phase != parity;
  }
  bool passed(u32 parity) { return passed_now(parity); }
  bool passed_within(u32 parity, u32) { return passed_now(parity); }
  void wait(u32 parity) {
    while (!passed_now(parity)) {
    }
  }
};
constexpr int ARRIVING = 1;
#ifdef MPK_TRACE
constexpr bool TRACED = true;
#else
constexpr bool TRACED = false;
#endif

void copy(char* target, const char* const* sources, int parts, int bytes, const Barrier& full);
void note_landing(int stage);

struct StageMarks {
  int issues = 0, landings = 0;
  explicit StageMarks(int) {}
  void begin(const Work&) {}
  void asked() {}
  void has_slot() {}
  void issued(int) { ++issues; }
  void landed() { note_landing(landings++); }
  void over() const {
    if (issues != landings) fibers::fail("not all landings are noted");
  }
};

}  // namespace mpk

#include "ring.cuh"

using mpk::asked_for, mpk::now, mpk::u32, mpk::u64;

constexpr int BYTES = 1024, STAGES = 120;
constexpr int SEGMENT = 25;  // stages of tasks of one kind, behind which nobody knows how it goes on
constexpr u64 LATE = mpk::TRACED ? 20 : 12;  // cycles within which a lane has seen what it waits for
alignas(16) char weights[STAGES][BYTES];
// A stage is of one part or, in one segment, of two.
int parts_of(int n) { return n / SEGMENT == 3 ? 2 : 1; }

struct Copied {
  u64 at;
  char* target;
  int parts;
};
// All of a case: stages by their numbers, times at which they were copied, landed and emptied.
std::vector<Copied> copied;
std::vector<u64> landed, emptied;
u64 called;                    // the loader turned to the stage that comes next
u64 paced_at, asked_at;        // the last copy out of memory, the last stage asked for into L2
int asked;                     // of the stages before, L2 was asked for each or need not be
int waited, hurried, from_l2;  // how many were copied at the pace, faster, and out of L2
int left;                      // the reader gives up
// Of the case.
int slots, in_flight, ease, pace, ahead;
const mpk::Barrier* full_barriers;
const char* ring_memory;

void expect(bool right, const char* wrong) {
  if (right) return;
  std::printf("stage %d at %lld: ", int(copied.size()), static_cast<long long>(now));
  fibers::fail(wrong);
}
u64 after(const std::vector<u64>& times, int n) { return n < 0 ? 0 : times[n]; }

void mpk::note_landing(int stage) { expect(stage < int(::landed.size()), "a landing is noted too early"); }

void mpk::copy(char* target, const char* const* sources, int parts, int bytes, const Barrier& full) {
  const int n = copied.size(), slot = n % slots;
  expect(target == ring_memory + slot * mpk::SLOT && &full == full_barriers + slot, "another slot's turn");
  expect(parts == parts_of(n) && parts * bytes == BYTES, "a stage of another size");
  for (int part = 0; part < parts; ++part)
    expect(sources[part] == weights[n] + part * bytes, "another stage's turn");
  expect(n - int(emptied.size()) < slots, "its slot is not empty");
  expect(n - int(landed.size()) < in_flight, "too many in flight");
  u64 possible = std::max({called, after(emptied, n - slots), after(landed, n - in_flight)});
  if (n < asked) {
    ++from_l2;
  } else {
    // More than `ease` slots are free since that one has been emptied.
    const int opening = n - slots + ease;
    const u64 due = paced_at + pace;
    const bool nearly_full = ease > 0 && opening >= int(emptied.size());
    expect(pace == 0 || !nearly_full || now >= due, "too early");
    const u64 open = nearly_full ? due : std::min(due, after(emptied, opening));
    if (pace > 0 && ease > 0) possible = std::max(possible, open);
    if (now < due) ++hurried;
    else if (now <= due + LATE) ++waited;
    paced_at = now;
  }
  expect(now <= possible + LATE, "too late");
  copied.push_back({now, target, parts});
  asked = std::max(asked, n + 1);
}

// Of what was asked for since.
void check_asked() {
  expect(asked_for.size() < 2, "L2 is asked by more than one lane");
  for (const auto& [from, to] : asked_for) {
    const int n = copied.size();
    asked = std::max(asked, n);
    const bool right = asked < STAGES && from == std::uintptr_t(weights[asked]) && to == from + BYTES;
    expect(right, "L2 is asked for another stage");
    expect(asked < n + ahead, "L2 is asked for too much");
    expect(asked / SEGMENT == n / SEGMENT, "L2 is asked for what nobody knows");
    expect(n - int(emptied.size()) == slots || now <= emptied[n - slots] + LATE, "L2 is asked though a slot is free");
    expect(now >= paced_at + pace && now >= asked_at + pace, "L2 is asked too early");
    asked_at = now;
    ++asked;
  }
  asked_for.clear();
}

void memory(int latency, mpk::Barrier* full) {
  while (!fibers::done[0] || !fibers::done[33]) {
    check_asked();
    ++now;
    const int n = landed.size();
    if (n < int(copied.size()) && now >= copied[n].at + latency) {
      for (int part = 0, parts = copied[n].parts; part < parts; ++part)
        std::memcpy(copied[n].target + part * (mpk::SLOT / parts), weights[n] + part * (BYTES / parts), BYTES / parts);
      landed.push_back(now);
      for (int lane = 0; lane < 32; ++lane) full[n % slots].arrive();
    }
    fibers::change();
  }
}

void rest(int cycles) {
  for (const u64 until = now + cycles; now < until;) fibers::change();
}

// Stages up to `count`, each for up to `most` cycles; every 20th for so long that the loader asks for all it may.
template <class R>
void reader(R& ring, int count, int most) {
  std::mt19937 random(count + most);
  for (int n = 0; n < count; ++n) {
    ring.full[n % slots].wait(n / slots % 2);
    expect(n < int(landed.size()), "a stage is read that has not landed");
    rest(n % 20 == 19 ? (ahead + 3) * (pace + int(LATE)) : random() % (most + 1));
    for (int part = 0, parts = parts_of(n); part < parts; ++part) {
      const char* place = ring.slot[n % slots] + part * (mpk::SLOT / parts);
      const bool right = std::memcmp(place, weights[n] + part * (BYTES / parts), BYTES / parts) == 0;
      expect(right, "another stage is there");
    }
    const int next = copied.size(), known = (next / SEGMENT + 1) * SEGMENT;
    if (n % 20 == 19 && ahead > 0 && next < STAGES && next / SEGMENT % 2 == 0)
      expect(asked == std::min({next + ahead, known, STAGES}), "L2 is not asked for all");
    emptied.push_back(now);
    for (int warp = 0; warp < mpk::COMPUTE_WARPS; ++warp) ring.empty[n % slots].arrive();
  }
  if (count < STAGES) {
    rest(500);
    left = 1;
  }
}

template <int PACE, int AHEAD = 0>
struct Stream {
  static constexpr int pace = PACE, ahead = AHEAD, long_pace = 2 * PACE, long_from = PACE > 0 ? 512 : 0;
};

// `count`: stages after which the reader gives up.
template <int SLOTS, int IN_FLIGHT, int EASE = 0, class S = mpk::Unpaced>
void check(const char* name, int latency, int most, mpk::i64 position = 0, int count = STAGES) {
  static mpk::Ring<SLOTS> ring;
  ring = {};
  ring.init(0, 1);
  slots = SLOTS, in_flight = IN_FLIGHT, ease = EASE, ahead = S::ahead;
  pace = S::long_from > 0 && position >= S::long_from ? S::long_pace : S::pace;
  full_barriers = ring.full, ring_memory = ring.slot[0];
  copied.clear(), landed.clear(), emptied.clear(), asked_for.clear();
  asked = waited = hurried = from_l2 = left = 0;
  now = (1ull << 32) - 2000;  // the SM's clock begins anew soon
  paced_at = asked_at = 0;
  fibers::run([&] {
    if (threadIdx.x == 32) memory(latency, ring.full);
    if (threadIdx.x == 33) reader(ring, count, most);
    if (threadIdx.x >= 32) return;
    mpk::Loader<SLOTS, IN_FLIGHT, EASE, S> loader(ring, left, threadIdx.x);
    mpk::Work work{};
    work.position = position;
    bool goes_on = true;
    int n = 0;
    for (; n < STAGES && goes_on; n += goes_on) {
      loader.begin(work, {});
      if (n == int(copied.size())) called = now;
      const auto upcoming = [&](int k) -> const char* {
        return n + k < STAGES && (n + k) / SEGMENT == n / SEGMENT ? weights[n + k] : nullptr;
      };
      const bool looks = S::ahead > 0 && n / SEGMENT % 2 == 0;
      if (parts_of(n) == 2) goes_on = loader.issue_both(weights[n], weights[n] + BYTES / 2, BYTES / 2);
      else if (looks) goes_on = loader.issue(weights[n], BYTES, upcoming);
      else goes_on = loader.issue(weights[n], BYTES);
    }
    loader.drain();
    expect(landed.size() == copied.size(), "a copy is left in flight");
    expect(n == std::min(count + slots, STAGES) && goes_on == (n == STAGES), "the loader leaves at another stage");
  });
  std::printf("%-40s at the pace %d, faster %d, out of L2 %d\n", name, waited, hurried, from_l2);
  if (count < STAGES) return;
  const bool hurries = hurried > 5 || EASE == SLOTS - 1;
  expect(S::pace == 0 || (waited > 5 && hurries), "the case shows nothing of the pace");
  expect(S::ahead == 0 || from_l2 > 10, "the case shows nothing of L2");
}

int main() {
  std::mt19937 random(1);
  for (auto& stage : weights)
    for (char& byte : stage) byte = char(random());
  check<5, 3>("as fast as it goes", 40, 60);
  check<5, 4>("memory is slow", 300, 10);
  check<4, 1>("one in flight", 30, 20);
  check<6, 3, 3, Stream<60>>("paced", 30, 120);
  check<6, 3, 5, Stream<60>>("paced, all but one slot", 30, 120);
  check<6, 3, 3, Stream<60>>("caches are long", 30, 240, 512);
  check<6, 3, 3, Stream<60, 4>>("behind a full ring", 30, 120);
  check<6, 3, 3, Stream<60, 9>>("further than a ring", 30, 120);
  check<6, 3, 0, Stream<0, 4>>("behind a full ring, no pace", 30, 120);
  check<6, 3, 3, Stream<60, 4>>("behind a full ring, caches are long", 30, 240, 513);
  check<5, 3>("leaves", 40, 60, 0, 33);
  check<5, 3>("leaves, of two parts", 40, 60, 0, 80);
  check<6, 3, 3, Stream<60, 4>>("leaves, looking behind the ring", 30, 120, 0, 61);
  return 0;
}
