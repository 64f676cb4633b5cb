#pragma once
#include "abi.cuh"
#include "sync.cuh"

namespace mpk {

template <class T>
struct Exchanged {
  u64 word;
};
template <>
struct Exchanged<bf16> {
  u32 word;
};
template <class T>
auto tagged_word(T v, const Work& work) {
  if constexpr (sizeof(T) == 2) {
    return u32(v.bits) << 16 | (work.tag & 0xffff);
  } else {
    u32 bits;
    std::memcpy(&bits, &v, 4);
    return u64(work.tag) << 32 | bits;
  }
}
template <bool FOREIGN, class W>
void store_word(W* p, W word) {
  static_assert(FOREIGN);
  __atomic_store_n(p, word, __ATOMIC_RELAXED);
}

}  // namespace mpk
