// Vec on the baseline instruction set, and on CUDA: one element, plain arithmetic.
//
// A wrapper rather than a raw float: <cmath>'s overloads would promote to double and lose the bits.
#pragma once

#include <stdint.h>

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
  FASTOPT_HOST_DEVICE void store(T* to) const { *to = value; }
  template <class From>
  FASTOPT_HOST_DEVICE static Vec load_first(const From* from, int) {
    return load(from);
  }
  FASTOPT_HOST_DEVICE void store_first(T* to, int) const { *to = value; }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return a.value + b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return a.value - b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return a.value * b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return a.value / b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) { return -a.value; }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) { return a.value < b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) { return a.value >= b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) { return a.value != b.value; }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) { return m ? a : b; }
};

FASTOPT_HOST_DEVICE Vec<float> sqrt(Vec<float> a) { return __builtin_sqrtf(a.value); }
FASTOPT_HOST_DEVICE Vec<double> sqrt(Vec<double> a) { return __builtin_sqrt(a.value); }

FASTOPT_TARGET_END
