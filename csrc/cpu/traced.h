// A program (rules/program.h) before its numbers are known, and how they are computed: what
// fastopt.rules traces a function to.
//
// Numbers may come of sums over a tensor. Each stage of the program but the last is a pass that
// leaves what is to be summed up; the nodes that need a stage's sums are computed after it.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "rules/program.h"

namespace fastopt {

// Numbers are counted through: the inputs, of which the last are a tensor's size and its sums, then
// the constants, then what each node makes of two before it.
class Traced {
 public:
  using Step = ProgramStep;
  using Node = NumberNode;
  struct Guard {
    int number;
    bool answer;
  };
  struct Stage {
    std::vector<Step> steps;
    std::vector<bool> squares;  // of each summand: whether its squares are summed up
    int nodes;                  // how many are known before it
  };

  std::vector<Stage> stages;  // the last one writes to the arrays
  std::vector<double> constants;
  std::vector<Node> nodes;
  std::vector<Guard> guards;
  int inputs = 0;       // sums, and the size before them, included
  int guard_nodes = 0;  // the guards ask for no node from there on
  int arrays = 2;
  unsigned written = 0;
  std::vector<int> kept;  // what the numbers that a parameter keeps are after the step

  // Why it is no program; empty if it is one.
  std::string trouble() const;

  bool has_sums() const { return stages.size() > 1; }
  int given() const;  // the inputs without sums
  int first_node() const { return inputs + static_cast<int>(constants.size()); }

  // The numbers before any is computed.
  void begin(const std::vector<double>& inputs, std::vector<double>& numbers) const;

  // Whether it is the program for these inputs. Computes the numbers that this depends on.
  bool holds(const std::vector<double>& inputs, std::vector<double>& numbers) const;

  // Whether it may be, where some of the inputs are `given` on a device.
  bool may_hold(const std::vector<double>& inputs, const std::vector<int>& given) const;

  // The others that a stage needs.
  void compute(std::size_t stage, std::vector<double>& numbers) const;

  // A stage's instructions with their numbers, as a kernel takes them.
  template <class T>
  void bind(std::size_t stage, const std::vector<double>& numbers,
            std::vector<Instruction<T>>& to) const {
    const auto rounded = [&](int number) {
      return number < 0 ? T(0) : static_cast<T>(numbers[number]);
    };
    to.clear();
    for (const Step& it : stages[stage].steps) {
      to.push_back({it.op, it.to, it.a, it.b, it.c, rounded(it.s), rounded(it.t)});
    }
  }

  BoundProgram bound(std::size_t stage, const void* code) const {
    const std::vector<Step>& steps = stages[stage].steps;
    return {code,
            static_cast<int>(steps.size()),
            arrays,
            stage + 1 == stages.size() ? written : 0,
            static_cast<int>(stages[stage].squares.size()),
            std::any_of(steps.begin(), steps.end(), [](const Step& it) { return waits(it.op); })};
  }

 private:
  std::string trouble(const Stage& stage, bool last) const;
};

}  // namespace fastopt
