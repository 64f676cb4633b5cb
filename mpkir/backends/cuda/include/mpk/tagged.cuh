// Elements that carry their own ready mark: a value and the tag of the step that wrote it, in one
// word that is stored and loaded whole. A reader polls the word itself, so a hand-off is one trip
// through memory, without a counter, a fence or an acquire. 16-bit floats share 32 bits with 16 bits
// of the tag, 32-bit floats 64 bits with all of it. Where all readers look at every element in every
// step, one bit tells a step from the one before: brief elements (brief.cuh) have room for it, and
// what everybody polls is half as much.
//
// A buffer of such elements is written anew in each step, so what a reader may find there is this
// step's tag or the one before. What a body has to keep:
// - it looks at every element of each flagged box that it reads until that has come, needed or not,
// - and that before it publishes the last of its own elements: who sees all of these knows that the
//   task reads nothing any more, so that the next step may write again;
// - it publishes every element of its flagged boxes, each once.
#pragma once
#include "abi.cuh"
#include "brief.cuh"
#include "sync.cuh"

namespace mpk {

template <class T>
struct Tagged;
template <>
struct Tagged<bf16> { u32 word; };
template <>
struct Tagged<f16> { u32 word; };
template <>
struct Tagged<float> { u64 word; };

// Where element e is in a buffer whose groups of GROUP elements begin at lines of memory, so that no
// two tasks write one: a line that several SMs write while all others poll it takes longer.
template <class X, int GROUP>
__device__ __forceinline__ i64 apart(i64 e) {
  constexpr int LINE = 128 / int(sizeof(X));
  static_assert(GROUP <= LINE, "a group fits a line");
  if constexpr (LINE % GROUP == 0) return e / GROUP * LINE + e % GROUP;
  const u32 n = static_cast<u32>(e);  // no buffer that everybody polls has more; divided in few steps
  return n / GROUP * LINE + n % GROUP;
}

// Where column k of token t is in a buffer that lies in panels of G columns by P tokens, so that what
// the lanes of a warp ask for together, 8 tokens of some columns, is in few lines.
template <int G, int P>
__device__ __forceinline__ i64 panel(int t, int k) {
  const u32 n = static_cast<u32>(k);  // 32 bits, which registers have room for, as those of i64 do not
  return t * G + int(n / G * (G * P) + n % G);
}

// An element of an exchange buffer: GPUs that run the program together write it for each other.
template <class T>
struct Exchanged {
  decltype(Tagged<T>::word) word;
};

// N neighbouring elements, as loaded; plain ones are there at once.
// `address` of request is aligned to the bytes of the N elements, or to 16 if they are more.
template <class X, int N>
struct Fetched {
  Vector<X, N> raw;
  __device__ __forceinline__ void request(const X* address) { raw = load_vector<X, N>(address); }
  __device__ __forceinline__ bool arrived(u32) const { return true; }
  __device__ __forceinline__ float get(int i) const { return raw.get(i); }
};

// Words that others write meanwhile: of this GPU, or with FOREIGN of any. They may hold several
// elements, each with a mark of its own, so nothing hangs on a load being one.
template <bool FOREIGN>
__device__ __forceinline__ void load_words(const u32* p, u32 (&w)[4]) {
  if constexpr (FOREIGN) {
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(p) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(p) : "memory");
  }
}
template <bool FOREIGN>
__device__ __forceinline__ void load_words(const u32* p, u32 (&w)[2]) {
  if constexpr (FOREIGN) {
    asm volatile("ld.relaxed.sys.global.v2.u32 {%0,%1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1]) : "l"(p) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1]) : "l"(p) : "memory");
  }
}
template <bool FOREIGN>
__device__ __forceinline__ void load_words(const u64* p, u64 (&w)[2]) {
  if constexpr (FOREIGN) {
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0,%1}, [%2];"
                 : "=l"(w[0]), "=l"(w[1]) : "l"(p) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0,%1}, [%2];"
                 : "=l"(w[0]), "=l"(w[1]) : "l"(p) : "memory");
  }
}
template <bool FOREIGN>
__device__ __forceinline__ u32 load_word(const u32* p) {
  u32 w;
  if constexpr (FOREIGN) {
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(w) : "l"(p) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(w) : "l"(p) : "memory");
  }
  return w;
}
template <bool FOREIGN>
__device__ __forceinline__ u64 load_word(const u64* p) {
  u64 w;
  if constexpr (FOREIGN) {
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(w) : "l"(p) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(w) : "l"(p) : "memory");
  }
  return w;
}

// N words of type W at `address`, 16 bytes at once where they are so many, or else 8.
template <bool FOREIGN, class W, int N>
__device__ __forceinline__ void request_words(const void* address, W (&word)[N]) {
  constexpr int EACH = 16 / sizeof(W);
  const W* p = static_cast<const W*>(address);
  if constexpr (N % EACH == 0) {
#pragma unroll
    for (int i = 0; i < N; i += EACH)
      load_words<FOREIGN>(p + i, *reinterpret_cast<W(*)[EACH]>(word + i));
  } else if constexpr (sizeof(W) == 4 && N == 2) {
    load_words<FOREIGN>(p, word);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) word[i] = load_word<FOREIGN>(p + i);
  }
}

template <class X, class T, int N>
struct FetchedHalves {
  u32 word[N];
  __device__ __forceinline__ void request(const X* address) {
    request_words<is_same<X, Exchanged<T>>>(address, word);
  }
  __device__ __forceinline__ bool arrived(u32 tag) const {
    u32 differ = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) differ |= word[i] ^ tag;
    return (differ & 0xffffu) == 0;
  }
  __device__ __forceinline__ float get(int i) const {
    if constexpr (sizeof(T) == 2 && is_same<T, bf16>) {
      return __uint_as_float(word[i] & 0xffff0000u);
    } else {
      T v;
      v.bits = static_cast<unsigned short>(word[i] >> 16);
      return to_float(v);
    }
  }
};
template <class X, int N>
struct FetchedFloats {
  u64 word[N];
  __device__ __forceinline__ void request(const X* address) {
    request_words<is_same<X, Exchanged<float>>>(address, word);
  }
  __device__ __forceinline__ bool arrived(u32 tag) const {
    u32 differ = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) differ |= u32(word[i] >> 32) ^ tag;
    return differ == 0;
  }
  __device__ __forceinline__ float get(int i) const { return __uint_as_float(u32(word[i])); }
};
template <int N>
struct Fetched<Brief<float>, N> {
  u32 word[N];
  __device__ __forceinline__ void request(const Brief<float>* address) {
    request_words<false>(address, word);
  }
  __device__ __forceinline__ bool arrived(u32 tag) const {
    u32 differ = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) differ |= word[i] ^ tag;
    return (differ & Brief<float>::MARKS) == 0;
  }
  __device__ __forceinline__ float get(int i) const {
    return __uint_as_float(word[i] & ~Brief<float>::MARKS);
  }
};
// Two in each word, or one alone.
template <int N>
struct Fetched<Brief<bf16>, N> {
  static_assert(N == 1 || N % 2 == 0, "whole words");
  using B = Brief<bf16>;
  u32 word[ceil_div(N, 2)];
  __device__ __forceinline__ void request(const B* address) {
    if constexpr (N == 1) {
      unsigned short half;
      asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(half) : "l"(address) : "memory");
      word[0] = half;
    } else {
      request_words<false>(address, word);
    }
  }
  __device__ __forceinline__ bool arrived(u32 tag) const {
    const u32 marks = tag % 2 != 0 ? B::MARKS : 0;
    u32 differ = 0;
#pragma unroll
    for (int i = 0; i < ceil_div(N, 2); ++i) differ |= word[i] ^ marks;
    return (differ & (N == 1 ? B::MARK : B::MARKS)) == 0;
  }
  // Element i and the one that shares its word.
  __device__ __forceinline__ u32 pair(int i) const { return B::pair(word[i / 2]); }
  __device__ __forceinline__ float get(int i) const {
    return __uint_as_float(i % 2 != 0 ? pair(i) & 0xffff0000u : pair(i) << 16);
  }
};
template <int DISTANCE, int N>
struct Fetched<Planes<DISTANCE>, N> {
  Fetched<Brief<bf16>, N> rounded, lost;
  __device__ __forceinline__ void request(const Planes<DISTANCE>* address) {
    rounded.request(&address->rounded);
    lost.request(address->lost(address));
  }
  __device__ __forceinline__ bool arrived(u32 tag) const { return rounded.arrived(tag) & lost.arrived(tag); }
  __device__ __forceinline__ float get(int i) const { return rounded.get(i) + lost.get(i); }
};
template <int N>
struct Fetched<Tagged<bf16>, N> : FetchedHalves<Tagged<bf16>, bf16, N> {};
template <int N>
struct Fetched<Tagged<f16>, N> : FetchedHalves<Tagged<f16>, f16, N> {};
template <int N>
struct Fetched<Tagged<float>, N> : FetchedFloats<Tagged<float>, N> {};
template <int N>
struct Fetched<Exchanged<bf16>, N> : FetchedHalves<Exchanged<bf16>, bf16, N> {};
template <int N>
struct Fetched<Exchanged<f16>, N> : FetchedHalves<Exchanged<f16>, f16, N> {};
template <int N>
struct Fetched<Exchanged<float>, N> : FetchedFloats<Exchanged<float>, N> {};

constexpr u32 FEWEST_POLLS = 1 << 16;  // so that a pause of the whole GPU is not taken for a hang

// Whether a poll that has looked `polls` times should give up: the launch has failed, or has now,
// because this task waited too long. What was found then is used as it is; the host refuses it.
__device__ __forceinline__ bool gives_up(const Work& work, u32 polls) {
  if (polls % 256 != 0) return false;
  Control* control = work.control;
  if (load_relaxed(&control->fault) == 0) {
    if (work.deadline == 0 || polls < FEWEST_POLLS) return false;
    if (int(u32(nanoseconds() >> 20) - work.deadline) < 0) return false;
    if (atomicCAS(&control->fault, 0, 1) == 0) {
      control->fault_worker = blockIdx.x;
      control->fault_task = work.task;
      control->fault_event = -1;
      control->fault_seen = 0;
      control->fault_wanted = work.tag;
      control->tell_fault();
    }
  }
  // The first task that gave up is the one that stood; what follows has garbage to work on.
  if (control->stands != nullptr)
    atomicMax(&control->stands[blockIdx.x].polls, ~(u64(u32(work.step)) << 32 | u32(work.task)));
  return true;
}

// One element, of this step.
template <class X>
__device__ __forceinline__ float await(const X* address, const Work& work) {
  Fetched<X, 1> element;
  for (u32 polls = 1;; ++polls) {
    element.request(address);
    if (element.arrived(work.tag) || gives_up(work, polls)) return element.get(0);
  }
}

// COUNT groups of N neighbouring elements at address(i), all requested before any is looked at;
// groups that are not there yet are asked for again, `pause` nanoseconds later: everybody polls at
// once, and much that is polled takes bandwidth from the weights. exists(i) says whether there is a
// group i.
template <int N, int COUNT, class X, class Address, class Exists>
__device__ __forceinline__ void await_all(const Work& work, Address address, Exists exists,
                                          Fetched<X, N> (&group)[COUNT], int pause = 0) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i)
    if (exists(i)) group[i].request(address(i));
  for (u32 polls = 1;; ++polls) {
    bool all = true;
    if (pause > 0) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) all &= !exists(i) || group[i].arrived(work.tag);
      if (all) return;
      __nanosleep(pause);
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      if (exists(i) && !group[i].arrived(work.tag)) {
        all = false;
        group[i].request(address(i));
      }
    }
    if (all || gives_up(work, polls)) return;
  }
}

// What an element's word holds in the step of a task.
template <class T, class V>
__device__ __forceinline__ decltype(Tagged<T>::word) tagged_word(V v, const Work& work) {
  if constexpr (sizeof(T) == 2) {
    return u32(convert<T>(v).bits) << 16 | (work.tag & 0xffffu);
  } else {
    return u64(work.tag) << 32 | __float_as_uint(convert<float>(v));
  }
}
template <bool FOREIGN>
__device__ __forceinline__ void store_word(void* p, unsigned short word) {
  static_assert(!FOREIGN, "brief elements stay at their rank");
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(p), "h"(word) : "memory");
}
template <bool FOREIGN>
__device__ __forceinline__ void store_word(void* p, u32 word) {
  if constexpr (FOREIGN) {
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(word) : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(word) : "memory");
  }
}
template <bool FOREIGN>
__device__ __forceinline__ void store_word(void* p, u64 word) {
  if constexpr (FOREIGN) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(word) : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(word) : "memory");
  }
}
template <class T, class V>
__device__ __forceinline__ auto word_of(const Tagged<T>*, V v, const Work& work) {
  return tagged_word<T>(v, work);
}
template <class T, class V>
__device__ __forceinline__ auto word_of(const Brief<T>*, V v, const Work& work) {
  return Brief<T>::of(convert<float>(v), work.tag);
}
template <class X, class V>
__device__ __forceinline__ void publish(X* p, V v, const Work& work) {
  store_word<false>(p, word_of(p, v, work));
}
template <int DISTANCE, class V>
__device__ __forceinline__ void publish(Planes<DISTANCE>* p, V v, const Work& work) {
  const float value = convert<float>(v), rounded = to_float(convert<bf16>(value));
  store_word<false>(&p->rounded, Brief<bf16>::of(rounded, work.tag));
  store_word<false>(p->lost(p), Brief<bf16>::of(value - rounded, work.tag));
}

__device__ __forceinline__ void store_sixteen(void* p, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
// Eight neighbouring elements at p, which is aligned to 16 bytes or to all of them, 16 bytes at once: each
// element is part of one word that is stored, with its mark, so nothing hangs on a store being one.
template <class X>
__device__ __forceinline__ void publish_eight(X* p, const float (&v)[8], const Work& work) {
  constexpr int EACH = 16 / int(sizeof(X));
#pragma unroll
  for (int i = 0; i < 8; i += EACH) {
    const auto word = [&](int e) { return word_of(p, v[i + e], work); };
    if constexpr (EACH == 8) {
      const auto two = [&](int e) { return u32(word(e)) | u32(word(e + 1)) << 16; };
      store_sixteen(p + i, two(0), two(2), two(4), two(6));
    } else if constexpr (EACH == 4) {
      store_sixteen(p + i, word(0), word(1), word(2), word(3));
    } else {
      asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1,%2};" ::"l"(p + i), "l"(word(0)), "l"(word(1))
                   : "memory");
    }
  }
}
template <int DISTANCE>
__device__ __forceinline__ void publish_eight(Planes<DISTANCE>* p, const float (&v)[8], const Work& work) {
  float lost[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) lost[i] = v[i] - to_float(convert<bf16>(v[i]));
  publish_eight(&p->rounded, v, work);
  publish_eight(p->lost(p), lost, work);
}

}  // namespace mpk
