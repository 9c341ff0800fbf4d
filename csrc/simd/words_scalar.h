// Words on the baseline instruction set: one lane.
#pragma once

#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec_scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

struct Words {
  uint32_t value;

  Words() = default;
  FASTOPT_HOST_DEVICE Words(uint32_t x) : value(x) {}
  FASTOPT_HOST_DEVICE static Words load(const uint32_t* from) { return *from; }
  FASTOPT_HOST_DEVICE static Words extended(const uint8_t* from) { return *from; }
  FASTOPT_HOST_DEVICE static Words extended(const int8_t* from) {
    return static_cast<uint32_t>(int{*from});
  }

  friend FASTOPT_HOST_DEVICE Words operator&(Words a, Words b) { return a.value & b.value; }
  friend FASTOPT_HOST_DEVICE Words operator|(Words a, Words b) { return a.value | b.value; }
  friend FASTOPT_HOST_DEVICE Words operator+(Words a, Words b) { return a.value + b.value; }
  friend FASTOPT_HOST_DEVICE Words larger(Words a, Words b) { return larger(a.value, b.value); }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return value; }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words a, Words b, uint8_t* to) {
    to[0] = code_of<coding>(a.value);
    to[1] = code_of<coding>(b.value);
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words shifted_left(Words a) {
  return a.value << bits;
}
FASTOPT_HOST_DEVICE Words bits_of(Vec<float> x) { return bits_of(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words a) { return float_of(a.value); }

FASTOPT_TARGET_END
