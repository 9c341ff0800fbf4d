// Vec on the baseline instruction set, and on CUDA: one element, plain arithmetic.
//
// A wrapper rather than a raw float: <cmath>'s overloads would promote to double and lose the bits.
#pragma once

#include <stdint.h>

#include "numeric/storage.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec {
  using Mask = bool;
  static constexpr int lanes = 1;
  T value;

  FASTOPT_HOST_DEVICE Vec() : value(0) {}
  FASTOPT_HOST_DEVICE Vec(T x) : value(x) {}

  template <class From>
  FASTOPT_HOST_DEVICE static Vec load(const From* from) {
    return static_cast<T>(*from);
  }
  FASTOPT_HOST_DEVICE static Vec load(const bfloat16* from) { return to_float(*from); }
  FASTOPT_HOST_DEVICE static Vec load(const float16* from) { return to_float(*from); }
  FASTOPT_HOST_DEVICE void store(T* to) const { *to = value; }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { *to = to_bfloat16(value); }
  FASTOPT_HOST_DEVICE void store(float16* to) const { *to = to_float16(value); }
  FASTOPT_HOST_DEVICE void store(Drawn<bfloat16>* to) const {
    *to->to = to_bfloat16(value, *to->draws);
  }
  FASTOPT_HOST_DEVICE void store(Drawn<float16>* to) const {
    *to->to = to_float16(value, *to->draws);
  }
  template <class From>
  FASTOPT_HOST_DEVICE static Vec load_first(const From* from, int) {
    return load(from);
  }
  template <class To>
  FASTOPT_HOST_DEVICE void store_first(To* to, int) const {
    store(to);
  }
  template <class To>
  FASTOPT_HOST_DEVICE void stream(To* to) const {
    store(to);
  }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    return (bits[i / 8] >> i % 8 & 1) != 0;
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return a.value + b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return a.value - b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return a.value * b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return a.value / b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) { return -a.value; }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) { return a.value < b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) { return a.value >= b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) { return a.value != b.value; }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) { return m ? a : b; }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) { return m ? a : Vec(T(0)); }
};

FASTOPT_HOST_DEVICE Vec<float> sqrt(Vec<float> a) { return __builtin_sqrtf(a.value); }
FASTOPT_HOST_DEVICE Vec<double> sqrt(Vec<double> a) { return __builtin_sqrt(a.value); }

template <class Value>
FASTOPT_HOST_DEVICE Value unfolded(Value v) {
  return v;
}

// After stores by stream().
FASTOPT_HOST_DEVICE void finish_streaming() {}

FASTOPT_TARGET_END
