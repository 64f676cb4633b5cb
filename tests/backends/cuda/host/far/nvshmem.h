// What NVSHMEM promises of its device API, and no more: a network that delivers elements whole, in any
// order; what has been delivered is seen at the other end one by one, in any order, or all of it
// behind a test. nvshmem_quiet waits for the delivery of all that the rank has put.
#pragma once
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <vector>

constexpr int NVSHMEM_CMP_GE = 4;

struct Put {
  void* to;
  unsigned long long value;
  int bytes, rank;

  void land() const {
    switch (bytes) {
      case 1: return __atomic_store_n(static_cast<unsigned char*>(to), value, __ATOMIC_RELEASE);
      case 2: return __atomic_store_n(static_cast<unsigned short*>(to), value, __ATOMIC_RELEASE);
      case 4: return __atomic_store_n(static_cast<unsigned int*>(to), value, __ATOMIC_RELEASE);
      default: return __atomic_store_n(static_cast<unsigned long long*>(to), value, __ATOMIC_RELEASE);
    }
  }
};

struct Network {
  static constexpr int MOST = 16;
  int ranks = 0;
  unsigned far_from[MOST] = {};
  char* heap[MOST] = {};
  size_t bytes = 0;
  bool over = false;
  long puts[MOST] = {};
  std::mutex mutex;
  std::vector<Put> sent[MOST];       // by rank r, under way
  std::vector<Put> delivered[MOST];  // to rank r, not seen yet
  std::mt19937 random{1};

  // One element goes on, whichever.
  void move() {
    const std::lock_guard<std::mutex> lock(mutex);
    const int r = int(random() % ranks);
    if (random() % 2) {
      // The newest first, so that what should have waited overtakes.
      if (!sent[r].empty()) deliver(last(sent[r]));
    } else if (!delivered[r].empty()) {
      take(delivered[r]).land();
    }
  }
  Put take(std::vector<Put>& from) {
    std::swap(from[random() % from.size()], from.back());
    return last(from);
  }
  static Put last(std::vector<Put>& from) {
    const Put put = from.back();
    from.pop_back();
    return put;
  }
  void deliver(const Put& put) { delivered[put.rank].push_back(put); }
};
inline Network network;
inline thread_local int own_pe;

[[noreturn]] inline void refuse(const char* what) {
  std::printf("rank %d: %s\n", own_pe, what);
  std::fflush(stdout);
  std::_Exit(1);
}
inline size_t place_of(const void* p) {
  const char* at = static_cast<const char*>(p);
  const char* heap = network.heap[own_pe];
  if (at < heap || at >= heap + network.bytes) refuse("this is not in the own heap");
  return size_t(at - heap);
}
template <class T>
void put(T* p, T value, int rank) {
  const size_t place = place_of(p);
  if (place % sizeof(T) != 0) refuse("this is not aligned");
  if ((network.far_from[own_pe] >> rank & 1) == 0) refuse("a near rank has an address");
  const std::lock_guard<std::mutex> lock(network.mutex);
  ++network.puts[own_pe];
  network.sent[own_pe].push_back({network.heap[rank] + place, value, sizeof(T), rank});
}
inline void nvshmem_uchar_p(unsigned char* p, unsigned char v, int rank) { put(p, v, rank); }
inline void nvshmem_ushort_p(unsigned short* p, unsigned short v, int rank) { put(p, v, rank); }
inline void nvshmem_uint_p(unsigned* p, unsigned v, int rank) { put(p, v, rank); }
inline void nvshmem_ulonglong_p(unsigned long long* p, unsigned long long v, int rank) {
  put(p, v, rank);
}
inline void nvshmem_quiet() {
  const std::lock_guard<std::mutex> lock(network.mutex);
  auto& own = network.sent[own_pe];
  while (!own.empty()) network.deliver(network.take(own));
}
inline int nvshmem_uint_test(unsigned* p, int cmp, unsigned v) {
  place_of(p);
  if (cmp != NVSHMEM_CMP_GE || *p < v) refuse("this test tells nothing");
  const std::lock_guard<std::mutex> lock(network.mutex);
  auto& seen = network.delivered[own_pe];
  while (!seen.empty()) network.take(seen).land();
  return 1;
}
