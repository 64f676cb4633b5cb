// Number types, conversions and memory accesses that all skeletons share.
// No system header is needed, so the same text compiles with nvcc and with NVRTC.
#pragma once

// Every member function of a printed body: called from a skeleton, always inlined.
#define MPK_MEMBER static __device__ __forceinline__

namespace mpk {

using i64 = long long;
using u32 = unsigned int;
using u64 = unsigned long long;

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

// NVRTC has neither <type_traits> nor the compilers' own __is_same.
template <class A, class B>
inline constexpr bool is_same = false;
template <class A>
inline constexpr bool is_same<A, A> = true;

// void, if T is a type.
template <class T>
struct Always {
  using type = void;
};

constexpr __host__ __device__ int least(int a, int b) { return a < b ? a : b; }
constexpr __host__ __device__ int most(int a, int b) { return a < b ? b : a; }
constexpr __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr __host__ __device__ int power_of_two_from(int n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// ---- conversions: fp32 is the arithmetic type; one rounding (nearest even) at a store ----

__device__ __forceinline__ float to_float(bf16 v) { return __uint_as_float(u32(v.bits) << 16); }
__device__ __forceinline__ float to_float(f16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
template <class T>
__device__ __forceinline__ float to_float(T v) { return float(v); }

// Any scalar to any scalar, through fp32 only where a 16-bit float takes part.
template <class To>
struct Convert {
  template <class From>
  __device__ __forceinline__ static To from(From v) { return To(v); }
  __device__ __forceinline__ static To from(bf16 v) { return To(to_float(v)); }
  __device__ __forceinline__ static To from(f16 v) { return To(to_float(v)); }
};
template <>
struct Convert<bf16> {
  template <class From>
  __device__ __forceinline__ static bf16 from(From v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(to_float(v)));
    return r;
  }
  __device__ __forceinline__ static bf16 from(bf16 v) { return v; }
};
template <>
struct Convert<f16> {
  template <class From>
  __device__ __forceinline__ static f16 from(From v) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(to_float(v)));
    return r;
  }
  __device__ __forceinline__ static f16 from(f16 v) { return v; }
};
template <class To, class From>
__device__ __forceinline__ To convert(From v) { return Convert<To>::from(v); }

__device__ __forceinline__ float round_bf16(float v) { return to_float(convert<bf16>(v)); }
__device__ __forceinline__ float round_f16(float v) { return to_float(convert<f16>(v)); }
__device__ __forceinline__ float nan() { return __int_as_float(0x7fc00000); }

// Two bf16 times two, plus two, each rounded once.
__device__ __forceinline__ u32 multiply_add(u32 a, u32 b, u32 c) {
  u32 word;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(word) : "r"(a), "r"(b), "r"(c));
  return word;
}

// ---- memory ----
// Activations and states are written by other SMs while the kernel runs: they are read past L1
// (.cg), in program order. Only parameters may be read with load_constant.

__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

template <class T>
__device__ __forceinline__ T load(const T* p) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "scalar");
  union { T value; unsigned char b; unsigned short h; u32 w; u64 d; } r;
  if constexpr (sizeof(T) == 1) {
    u32 byte;
    asm volatile("ld.global.cg.u8 %0, [%1];" : "=r"(byte) : "l"(p) : "memory");
    r.b = static_cast<unsigned char>(byte);
  } else if constexpr (sizeof(T) == 2) {
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(r.h) : "l"(p) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(r.w) : "l"(p) : "memory");
  } else {
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(r.d) : "l"(p) : "memory");
  }
  return r.value;
}

// N consecutive elements held as 32-bit words: 8 bytes, or a multiple of 16 bytes, aligned so.
template <class T, int N>
struct Vector {
  static constexpr int BYTES = N * int(sizeof(T));
  static_assert(BYTES == 8 || BYTES % 16 == 0, "a vector is 8 bytes or a multiple of 16");
  u32 word[BYTES / 4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < BYTES / 4; ++i) word[i] = 0;
  }
  __device__ __forceinline__ float get(int i) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word[i]);
    } else {
      const u32 w = word[i / 2];
      T v;
      if constexpr (sizeof(T) == 2) v.bits = static_cast<unsigned short>(i % 2 ? w >> 16 : w);
      return to_float(v);
    }
  }
  __device__ __forceinline__ void unpack(float (&v)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = get(i);
  }
};
// bf16 needs one shift or one mask an element.
template <>
__device__ __forceinline__ float Vector<bf16, 8>::get(int i) const {
  return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
}
template <>
__device__ __forceinline__ float Vector<bf16, 4>::get(int i) const {
  return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
}

template <class T, int N>
__device__ __forceinline__ Vector<T, N> load_vector(const T* p) {
  Vector<T, N> r;
  if constexpr (Vector<T, N>::BYTES == 8) {
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];"
                 : "=r"(r.word[0]), "=r"(r.word[1]) : "l"(p) : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T, N>::BYTES / 4; i += 4)
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r.word[i]), "=r"(r.word[i + 1]), "=r"(r.word[i + 2]), "=r"(r.word[i + 3])
                   : "l"(reinterpret_cast<const char*>(p) + 4 * i) : "memory");
  }
  return r;
}
template <class T, int N>
__device__ __forceinline__ void load_vector(const T* p, float (&v)[N]) {
  load_vector<T, N>(p).unpack(v);
}

// Where one of 8 neighbours in a row of a packed matrix is among them: pairs 0, 2, 1 and 3, as the
// large operand of a product takes them (packed_fragments.cuh).
__device__ __forceinline__ constexpr int packed_among(int column) {
  return column % 2 + column / 2 % 2 * 4 + column / 4 * 2;
}
// Where element (row, column) of a packed matrix of K columns is: blocks of 8 rows by 32 columns.
template <int K>
__device__ __forceinline__ i64 packed_place(int row, int column) {
  return (i64(row / 8) * (K / 32) + column / 32) * 256 + row % 8 * 32 + column % 32 / 8 * 8 +
         packed_among(column % 8);
}

// Asks for memory that will be read soon, as far as L2: a hint, which orders nothing and so may come
// before what is written there. Address and bytes are multiples of 16.
__device__ __forceinline__ void fetch_to_l2(const void* p, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}

// Parameters: never written while the kernel runs.
template <class T, int N>
__device__ __forceinline__ Vector<T, N> load_constant_vector(const T* p) {
  Vector<T, N> r;
  if constexpr (Vector<T, N>::BYTES == 8) {
    asm("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(r.word[0]), "=r"(r.word[1]) : "l"(p));
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T, N>::BYTES / 4; i += 4)
      asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
          : "=r"(r.word[i]), "=r"(r.word[i + 1]), "=r"(r.word[i + 2]), "=r"(r.word[i + 3])
          : "l"(reinterpret_cast<const char*>(p) + 4 * i));
  }
  return r;
}
template <class T>
__device__ __forceinline__ T load_constant(const T* p) { return *p; }

template <class T, class V>
__device__ __forceinline__ void store(T* p, V v) { *p = convert<T>(v); }

}  // namespace mpk
