// What the operations on a program's numbers make of two of them (rules/program.h), in double: on
// the host and, where a number comes of a sum over a tensor, on a device.
#pragma once

#include <math.h>

#include "numeric/elementary.h"
#include "rules/program.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

FASTOPT_HOST_DEVICE double remainder_of(double a, double b) {
  const double rest = ::fmod(a, b);
  if (rest == 0) return ::copysign(0.0, b);
  return (rest < 0) == (b < 0) ? rest : rest + b;
}

FASTOPT_HOST_DEVICE double result_of(NumberOp op, double a, double b) {
  switch (op) {
    case NumberOp::negative:
      return -a;
    case NumberOp::root:
      return __builtin_sqrt(a);
    case NumberOp::exponential:
      return exp_of(a);
    case NumberOp::logarithm:
      return log_of(a);
    case NumberOp::add:
      return a + b;
    case NumberOp::subtract:
      return a - b;
    case NumberOp::multiply:
      return a * b;
    case NumberOp::divide:
      return a / b;
    case NumberOp::remainder:
      return remainder_of(a, b);
    case NumberOp::power:
      return power_of(a, b);
    case NumberOp::maximum:
      return a >= b || a != a ? a : b;
    case NumberOp::minimum:
      return b >= a || a != a ? a : b;
    case NumberOp::less:
      return a < b;
    case NumberOp::at_most:
      return a <= b;
    case NumberOp::equal:
      return a == b;
    case NumberOp::unequal:
      return a != b;
  }
  return 0;
}

FASTOPT_TARGET_END
