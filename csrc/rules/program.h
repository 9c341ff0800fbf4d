// An update rule as a program: plain data that the loop of each target interprets
// (cpu/program_loop.h), strip by strip. fastopt.rules makes them of functions in Python.
//
// An operand is a place: the arrays of a kernel come first, then what is to be summed up in a pass
// for a sum (cpu/summed.h), then registers, which hold a strip. The numbers of a program are double
// until they are bound: rounded once, to what is computed in. A condition is 1 or 0.
#pragma once

#include <stdint.h>

namespace fastopt {

// x, y, z: the operands a, b, c; s, t: the instruction's numbers.
#define FASTOPT_PROGRAM_OPS(X)              \
  X(copy)                                   \
  X(negative)                               \
  X(absolute)                               \
  X(root)                                   \
  X(square)                                 \
  X(sign) /* of 0 and NaN: themselves */    \
  X(add)                                    \
  X(subtract)                               \
  X(multiply)                               \
  X(divide)                                 \
  X(maximum) /* NaN if either is */         \
  X(minimum)                                \
  X(less)                                   \
  X(at_most)                                \
  X(equal)                                  \
  X(both)                                   \
  X(either)                                 \
  X(opposite)                               \
  X(select)         /* y where x, else z */ \
  X(select_else)    /* y where x, else s */ \
  X(select_then)    /* s where x, else y */ \
  X(select_numbers) /* s where x, else t */ \
  X(fill)           /* s */                 \
  X(add_number)                             \
  X(from_number) /* s - x */                \
  X(scale)                                  \
  X(over_number) /* x / s */                \
  X(number_over) /* s / x */                \
  X(maximum_number)                         \
  X(minimum_number)                         \
  X(clip) /* minimum(maximum(x, s), t) */   \
  X(less_number)                            \
  X(greater_number)                         \
  X(at_most_number)                         \
  X(at_least_number)                        \
  X(equal_number)                           \
  X(sum)          /* s x + t y */           \
  X(sum_square)   /* s x + t y^2 */         \
  X(sum_product)  /* s x + t (y z) */       \
  X(sum_quotient) /* s x + t (y / z) */     \
  X(sum_sign)     /* s x + t sign(y) */     \
  X(sum_root)     /* s sqrt(x) + t */       \
  X(root_plus)    /* sqrt(x) + s */         \
  X(root_maximum) /* maximum(sqrt(x), s) */

enum class Op : uint8_t {
#define FASTOPT_PROGRAM_OP(name) name,
  FASTOPT_PROGRAM_OPS(FASTOPT_PROGRAM_OP)
#undef FASTOPT_PROGRAM_OP
};

// Whether the unit that takes roots and quotients is what an instruction waits for.
constexpr bool waits(Op op) {
  return op == Op::root || op == Op::divide || op == Op::over_number || op == Op::number_over ||
         op == Op::sum_quotient || op == Op::sum_root || op == Op::root_plus ||
         op == Op::root_maximum;
}

constexpr int first_summand = 8;  // the places before it are a kernel's arrays
constexpr int max_summands = 4;   // of a pass
constexpr int first_register = first_summand + max_summands;
constexpr int max_registers = 16;
constexpr int max_instructions = 128;

// An instruction with its numbers. It may write to one of its operands.
template <class T>
struct Instruction {
  Op op;
  uint8_t to, a, b, c;
  T s, t;
};

// An instruction before its numbers are known: which they are, -1 for none.
struct ProgramStep {
  Op op;
  uint8_t to, a, b, c;
  int s, t;
};

// a, b: the operands.
#define FASTOPT_NUMBER_OPS(X)              \
  X(negative)                              \
  X(root)                                  \
  X(exponential)                           \
  X(logarithm)                             \
  X(add)                                   \
  X(subtract)                              \
  X(multiply)                              \
  X(divide)                                \
  X(remainder) /* of the divisor's sign */ \
  X(power)                                 \
  X(maximum) /* NaN if either is */        \
  X(minimum)                               \
  X(less)                                  \
  X(at_most)                               \
  X(equal)                                 \
  X(unequal)

enum class NumberOp : int {
#define FASTOPT_NUMBER_OP(name) name,
  FASTOPT_NUMBER_OPS(FASTOPT_NUMBER_OP)
#undef FASTOPT_NUMBER_OP
};

// What is made of two numbers.
struct NumberNode {
  NumberOp op;
  int a, b;
};

// What a BoundRule holds: `code` is of Instruction<float> or of Instruction<double>.
struct BoundProgram {
  const void* code;
  int length;
  int arrays;        // the parameter, the gradient and the states
  unsigned written;  // bit i is set if array i is
  int summands;      // in a pass before a sum
  bool waits;        // for roots and quotients
};

}  // namespace fastopt
