// Runs a scope in the default floating-point mode: round to nearest, denormals kept.
//
// torch.set_flush_denormal reaches only the thread that calls it, so without this the bits would
// depend on which thread got which element. The caller's mode comes back at the end of the scope.
#pragma once

#include <stdint.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastopt {

class FloatMode {
 public:
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
#if defined(__SSE2__)
  FloatMode() : saved_(_mm_getcsr()) {
    _mm_setcsr(0x1f80);
  }  // all exceptions masked, no FTZ, no DAZ
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  FloatMode() {}
#endif
};

}  // namespace fastopt
