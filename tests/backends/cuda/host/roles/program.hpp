// Three bodies, one of each kind, for the roles to run. Operands: the numbers that a
// task reads, one weight for each task, the numbers that it writes. A task makes
//   y[index] = (31 * sum of x + weight[index] + index + position) mod 2^31
// or, where it takes stages of the ring, with position % 3 times what it made a step before added to the sum,
// and wastes time that depends on its place and the step.
#pragma once
#include "runtime.cuh"

// Which family stops the loop, and of how many of its results one does.
extern "C" int stop_family, stop_modulus;
int stop_family = -1, stop_modulus = 1;

namespace {

using mpk::i64, mpk::LaunchArgs, mpk::Work;

// x: a count, then as many numbers.
i64 sum(const i64* x) {
  i64 result = 0;
  for (i64 i = 0; i < x[0]; ++i) result += x[1 + i];
  return result;
}
i64 make(const Work& work, i64 total, i64 weight) {
  volatile i64 waste = 0;
  for (int i = (work.index * 7 + work.step * 13) % 11 * 300; i > 0; --i) waste = waste + i;
  return (31 * total + weight + work.index + work.position) & 0x7fffffff;
}

struct Plain {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 64, partial_bytes = 0;

  static void run(const Work& work, const LaunchArgs& args, char* scratch) {
    if (threadIdx.x / 32 == 0) prepare(work, scratch, 0);
    run_prepared(work, args, scratch, [] { mpk::compute_sync(); });
  }
  static constexpr bool is_prepared = true;
  static void prepare(const Work& work, char* scratch, int) {
    *reinterpret_cast<i64*>(scratch) = sum(work.at<i64>(0));
  }
  template <class Prepared>
  static void run_prepared(const Work& work, const LaunchArgs& args, char* scratch, Prepared prepared) {
    prepared();
    const bool first = threadIdx.x / 32 == 0;
    const i64 result = make(work, *reinterpret_cast<i64*>(scratch), work.at<i64>(1)[work.index]);
    if (!first) work.at<i64>(2)[1 + work.index] = result;  // the other warp stores
    if (first && work.family == stop_family && result % stop_modulus == 0) {
      __atomic_store_n(&args.control->stop_at, work.step + 1, __ATOMIC_RELAXED);
      args.control->tell_stop(work.step + 1);
    }
  }
  // The host is told what each task made, and in which step.
  static void tell(const Work& work, const LaunchArgs& args, int) {
    if (args.control->told != nullptr)
      mpk::store_system(args.control->told + work.task,
                        mpk::u64(work.tag) << 32 | mpk::u32(work.at<i64>(2)[1 + work.index]));
  }
};

// So many stages, of what the task made before and its weight.
struct Staged {
  static constexpr bool streams = false;
  static constexpr int scratch_bytes = 64, partial_bytes = 0;

  struct stages {
    static constexpr bool possible = true;
    template <class L>
    static bool load(L& loader, const Work& work) {
      for (int k = int(work.position % 3); k > 0; --k)
        if (!loader.issue_both(work.at<char>(2) + 8 * (1 + work.index), work.at<char>(1) + 8 * work.index, 8))
          return false;
      return true;
    }
  };
  static void keep(const Work& work, i64 more) {
    if (threadIdx.x / 32 == 0)
      work.at<i64>(2)[1 + work.index] = make(work, sum(work.at<i64>(0)) + more, work.at<i64>(1)[work.index]);
  }
  static void run(const Work& work, const LaunchArgs&, char*) {
    keep(work, work.position % 3 * work.at<i64>(2)[1 + work.index]);
  }
  template <class C>
  static void run_staged(const Work& work, const LaunchArgs&, char*, decltype(nullptr), C& role) {
    const int count = int(work.position % 3);
    role.wait_stages(count);
    i64 more = 0;
    for (int k = 0; k < count; ++k) {
      i64 parts[2];
      for (int i = 0; i < 2; ++i) std::memcpy(&parts[i], role.stage(k) + i * (mpk::SLOT / 2), 8);
      more += parts[0] + parts[1] - work.at<i64>(1)[work.index];
    }
    role.release_stages(count);
    keep(work, more);
  }
};

struct Stream {
  static constexpr bool streams = true;
  static constexpr int scratch_bytes = 0, partial_bytes = 16;
  static constexpr bool publisher_sums = true;

  template <class L>
  static bool load(L& loader, const Work& work) {
    return loader.issue(work.at<char>(1) + 8 * work.index, 8);
  }
  template <class C>
  static void compute(C& role) {
    const int family = role.work().family, step = role.work().step;
    if (!role.wait_ready()) return;
    role.wait_published();
    const i64 total = sum(role.work().template at<i64>(0));
    for (;;) {
      i64 weight;
      std::memcpy(&weight, role.wait_stage(), 8);
      role.release_stage();
      i64* partial = reinterpret_cast<i64*>(role.partial());
      partial[role.warp] = role.warp == 0 ? total : weight;
      role.hand_over();
      role.finish_task();
      role.wait_filled();
      const Work& next = role.work();
      if (next.body < 0 || next.family != family || next.step != step) return;
      if (!role.wait_ready()) return;
    }
  }
  template <class R>
  static void publish(R& role, const Work& work) {
    const i64* partial = reinterpret_cast<const i64*>(role.wait_partial());
    work.at<i64>(2)[1 + work.index] = make(work, partial[0], partial[1]);
    role.published(work);
  }
};

}  // namespace
