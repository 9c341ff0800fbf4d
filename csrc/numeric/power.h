// base^exponent for the bias corrections, by squaring, and e^x for other schedules, in double.
//
// One definition each serves the kernels and (in fastopt.reference) the references, because the
// order of the multiplications decides the last bit. libm's pow and exp differ from system to
// system.
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

// For x of at most 0: halved until a series will do, then squared as often.
FASTOPT_HOST_DEVICE double exponential(double x) {
  if (x < -746) return 0;  // less than any double
  int halvings = 0;
  for (; x < -1.0 / 16; x *= 0.5) ++halvings;
  double result = 1;
  for (int n = 12; n > 0; --n) result = 1 + x / n * result;
  for (; halvings > 0; --halvings) result *= result;
  return result;
}

FASTOPT_TARGET_END
