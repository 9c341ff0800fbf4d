// e^x, ln x and x^y of the numbers of a program (rules/program.h), in double.
//
// One definition serves the kernels and the references (fastopt/rules/_doubles.py), since libm's
// differ from system to system. Each is plain arithmetic in a fixed order, right to a few ulp.
#pragma once

#include <stdint.h>

#include "numeric/power.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr double ln2_high = 0x1.62e42fee00000p-1;  // ln 2, its first 32 bits
constexpr double ln2_low = 0x1.a39ef35793c76p-33;  // and the rest

FASTOPT_HOST_DEVICE double double_of(uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

FASTOPT_HOST_DEVICE uint64_t bits_of(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

// 2^n for n in [-1022, 1023].
FASTOPT_HOST_DEVICE double power_of_two(int64_t n) {
  return double_of(static_cast<uint64_t>(n + 1023) << 52);
}

// x = k ln 2 + r: a series in r, times 2^k in two steps, so that a denormal is rounded once.
FASTOPT_HOST_DEVICE double exp_of(double x) {
  if (x != x) return x;
  if (x > 710) return __builtin_inf();
  if (x < -746) return 0;
  const int64_t k = static_cast<int64_t>(x * 0x1.71547652b82fep+0 + (x < 0 ? -0.5 : 0.5));
  const double n = static_cast<double>(k);
  const double r = (x - n * ln2_high) - n * ln2_low;
  double series = 1;
  for (int i = 14; i > 0; --i) series = 1 + r / i * series;
  const int64_t half = k / 2;
  return series * power_of_two(half) * power_of_two(k - half);
}

// x = 2^e m with m near 1: a series in (m - 1) / (m + 1).
FASTOPT_HOST_DEVICE double log_of(double x) {
  if (!(x > 0)) return x == 0 ? -__builtin_inf() : __builtin_nan("");
  if (x > 0x1.fffffffffffffp+1023) return x;
  double e = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    e = -54;
  }
  const uint64_t bits = bits_of(x);
  e += static_cast<double>(static_cast<int64_t>(bits >> 52) - 1023);
  double m = double_of((bits & 0xfffffffffffffu) | uint64_t{1023} << 52);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e += 1;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  for (int i = 23; i > 1; i -= 2) series = (series + 1.0 / i) * square;
  return e * ln2_high + (e * ln2_low + (2 * s + 2 * s * series));
}

// By squaring for a whole exponent.
FASTOPT_HOST_DEVICE double power_of(double base, double exponent) {
  const double size = exponent < 0 ? -exponent : exponent;
  if (size <= 0x1p53 && static_cast<double>(static_cast<int64_t>(size)) == size) {
    const double whole = power(base, size);
    return exponent < 0 ? 1 / whole : whole;
  }
  return exp_of(exponent * log_of(base));
}

FASTOPT_TARGET_END
