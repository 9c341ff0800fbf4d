// What the instructions of a program make of their operands (rules/program.h): x, y and z, with
// their numbers s and t. The interpreters of all targets take them from here.
#pragma once

#include "rules/program.h"
#include "rules/rule.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The smaller one; NaN if either is.
template <class V>
FASTOPT_HOST_DEVICE V minimum(V a, V b) {
  return select((b >= a) | (a != a), a, b);
}

template <class V, class Mask>
FASTOPT_HOST_DEVICE V truth(Mask mask) {
  return select(mask, V(1), V(0));
}

#define FASTOPT_PROGRAM_RESULTS(X)                                                     \
  X(copy, x)                                                                           \
  X(negative, -x)                                                                      \
  X(absolute, select(zero < x, x, zero - x))                                           \
  X(root, sqrt(x))                                                                     \
  X(square, x* x)                                                                      \
  X(sign, select(zero < x, one, select(x < zero, -one, x)))                            \
  X(add, x + y)                                                                        \
  X(subtract, x - y)                                                                   \
  X(multiply, x* y)                                                                    \
  X(divide, x / y)                                                                     \
  X(maximum, fastopt::FASTOPT_TARGET::maximum(x, y))                                   \
  X(minimum, fastopt::FASTOPT_TARGET::minimum(x, y))                                   \
  X(less, truth<V>(x < y))                                                             \
  X(at_most, truth<V>(y >= x))                                                         \
  X(equal, select(x != y, zero, one))                                                  \
  X(both, x* y)                                                                        \
  X(either, select(x >= y, x, y))                                                      \
  X(opposite, one - x)                                                                 \
  X(select, select(x != zero, y, z))                                                   \
  X(select_else, select(x != zero, y, s))                                              \
  X(select_then, select(x != zero, s, y))                                              \
  X(select_numbers, select(x != zero, s, t))                                           \
  X(fill, s)                                                                           \
  X(add_number, x + s)                                                                 \
  X(from_number, s - x)                                                                \
  X(scale, x* s)                                                                       \
  X(over_number, x / s)                                                                \
  X(number_over, s / x)                                                                \
  X(maximum_number, fastopt::FASTOPT_TARGET::maximum(x, s))                            \
  X(minimum_number, fastopt::FASTOPT_TARGET::minimum(x, s))                            \
  X(clip, fastopt::FASTOPT_TARGET::minimum(fastopt::FASTOPT_TARGET::maximum(x, s), t)) \
  X(less_number, truth<V>(x < s))                                                      \
  X(greater_number, truth<V>(s < x))                                                   \
  X(at_most_number, truth<V>(s >= x))                                                  \
  X(at_least_number, truth<V>(x >= s))                                                 \
  X(equal_number, select(x != s, zero, one))                                           \
  X(sum, (s * x) + t * y)                                                              \
  X(sum_square, (s * x) + t * (y * y))                                                 \
  X(sum_product, (s * x) + t * (y * z))                                                \
  X(sum_quotient, (s * x) + t * (y / z))                                               \
  X(sum_sign, (s * x) + t * select(zero < y, one, select(y < zero, -one, y)))          \
  X(sum_root, (s * sqrt(x)) + t)                                                       \
  X(root_plus, sqrt(x) + s)                                                            \
  X(root_maximum, fastopt::FASTOPT_TARGET::maximum(sqrt(x), s))

FASTOPT_TARGET_END
