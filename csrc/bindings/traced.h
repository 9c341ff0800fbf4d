// A program (rules/program.h) before its numbers are known, and how they are computed: what
// fastopt.rules traces a function to.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "rules/program.h"

namespace fastopt {

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

// Numbers are counted through: the inputs, then the constants, then what each node makes of two
// before it.
class Traced {
 public:
  struct Step {
    Op op;
    uint8_t to, a, b, c;
    int s, t;  // numbers; -1 for none
  };
  struct Node {
    NumberOp op;
    int a, b;
  };
  struct Guard {
    int number;
    bool answer;
  };

  std::vector<Step> steps;
  std::vector<double> constants;
  std::vector<Node> nodes;
  std::vector<Guard> guards;
  int inputs = 0, guard_nodes = 0;  // the guards ask for no node from there on
  int arrays = 2;
  unsigned written = 0;

  // Why it is no program; empty if it is one.
  std::string trouble() const;

  // Whether it is the program for these inputs. Computes the numbers that this depends on.
  bool holds(const std::vector<double>& inputs, std::vector<double>& numbers) const;

  // The others.
  void finish(std::vector<double>& numbers) const;

  // The instructions with their numbers, as a kernel takes them.
  template <class T>
  void bind(const std::vector<double>& numbers, std::vector<Instruction<T>>& to) const {
    const auto rounded = [&](int number) {
      return number < 0 ? T(0) : static_cast<T>(numbers[number]);
    };
    to.clear();
    for (const Step& it : steps) {
      to.push_back({it.op, it.to, it.a, it.b, it.c, rounded(it.s), rounded(it.t)});
    }
  }

 private:
  void compute(std::vector<double>& numbers, int first, int end) const;
  int first_node() const { return inputs + static_cast<int>(constants.size()); }
};

}  // namespace fastopt
