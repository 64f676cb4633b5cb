#pragma once
#include "sync.cuh"

namespace mpk {

struct LaunchArgs {};
struct Work {
  void* operand[12];
  i64 position;
  int index;
  u32 tag;
  int body, family, step;

  template <class T>
  T* at(int k) const { return static_cast<T*>(operand[k]); }
};

}  // namespace mpk
