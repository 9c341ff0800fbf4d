// base^exponent for the bias corrections: exponentiation by squaring in double.
//
// One definition serves the kernels and (as fastopt.reference.power) the references, because the
// order of the multiplications decides the last bit. libm's pow differs from system to system.
#pragma once

#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

FASTOPT_HOST_DEVICE double power(double base, double exponent) {
  double result = 1.0;
  for (uint64_t n = static_cast<uint64_t>(exponent); n != 0; n >>= 1) {
    if (n & 1) result *= base;
    base *= base;
  }
  return result;
}

FASTOPT_TARGET_END
