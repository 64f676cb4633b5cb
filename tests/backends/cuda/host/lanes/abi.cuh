#pragma once
#include "sync.cuh"

namespace mpk {

struct Control {
  int stop_at;
  u64* told;
  void tell_stop(int) const {}
};
struct LaunchArgs {
  Control* control;
};
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
