// Elements with a tag: all of a step are there before the task runs, so one that is not, never comes.
#pragma once
#include "abi.cuh"
#include "brief.cuh"

namespace mpk {

template <class T>
struct Tagged {
  std::conditional_t<sizeof(T) == 2, u32, u64> word;

  bool has(u32 tag) const { return sizeof(T) == 2 ? u32((word ^ tag) & 0xffff) == 0 : word >> 16 >> 16 == tag; }
  float get() const { return __uint_as_float(sizeof(T) == 2 ? u32(word) & 0xffff0000u : u32(word)); }
};

template <class X, int N>
struct Fetched {
  Vector<X, N> raw;
  void request(const X* address) { raw = load_vector<X, N>(address); }
  bool arrived(u32) const { return true; }
  float get(int i) const { return raw.get(i); }
};
template <class T, int N>
struct Fetched<Tagged<T>, N> {
  Tagged<T> word[N];
  void request(const Tagged<T>* address) {
    check_aligned(address, N * sizeof(Tagged<T>));
    std::copy(address, address + N, word);
  }
  bool arrived(u32 tag) const {
    return std::all_of(word, word + N, [&](const Tagged<T>& each) { return each.has(tag); });
  }
  float get(int i) const { return word[i].get(); }
};
template <int N>
struct Fetched<Brief<bf16>, N> {
  u32 word[ceil_div(N, 2)];
  void request(const Brief<bf16>* address) {
    check_aligned(address, N * sizeof(Brief<bf16>));
    std::memcpy(word, address, N * sizeof(Brief<bf16>));
  }
  bool arrived(u32 tag) const {
    return std::all_of(word, word + N / 2, [&](u32 each) {
      return (each & Brief<bf16>::MARKS) == (tag % 2 ? Brief<bf16>::MARKS : 0);
    });
  }
  u32 pair(int i) const { return Brief<bf16>::pair(word[i / 2]); }
  float get(int i) const { return __uint_as_float(i % 2 ? pair(i) & 0xffff0000u : pair(i) << 16); }
};

inline bool gives_up(const Work&, u32 polls) {
  if (polls > 5) fibers::fail("an element is waited for that nobody writes");
  return false;
}
template <int N, int COUNT, class X, class Address, class Exists>
void await_all(const Work& work, Address address, Exists exists, Fetched<X, N> (&group)[COUNT], int = 0) {
  for (int i = 0; i < COUNT; ++i) {
    if (!exists(i)) continue;
    group[i].request(address(i));
    if (!group[i].arrived(work.tag)) fibers::fail("an element is waited for that nobody writes");
  }
}
template <class T>
void publish(Tagged<T>* p, float value, const Work& work) {
  if constexpr (sizeof(T) == 2) p->word = u32(convert<T>(value).bits) << 16 | (work.tag & 0xffff);
  else p->word = u64(work.tag) << 32 | __float_as_uint(value);
}
inline void publish(Brief<bf16>* p, float value, const Work& work) {
  p->word = Brief<bf16>::of(value, work.tag);
}

}  // namespace mpk
