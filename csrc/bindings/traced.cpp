#include "bindings/traced.h"

#include <cmath>

#include "numeric/elementary.h"

namespace fastopt {
namespace {

double remainder_of(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) == (b < 0) ? rest : rest + b;
}

double result_of(NumberOp op, double a, double b) {
  switch (op) {
    case NumberOp::negative:
      return -a;
    case NumberOp::root:
      return std::sqrt(a);
    case NumberOp::exponential:
      return host::exp_of(a);
    case NumberOp::logarithm:
      return host::log_of(a);
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
      return host::power_of(a, b);
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

}  // namespace

std::string Traced::trouble() const {
  const int count = first_node() + static_cast<int>(nodes.size());
  for (int i = 0; i < static_cast<int>(nodes.size()); ++i) {
    const auto known = [&](int number) { return number >= 0 && number < first_node() + i; };
    if (!known(nodes[i].a) || !known(nodes[i].b)) return "a node of numbers that are not known";
  }
  for (const Guard& guard : guards) {
    if (guard.number < 0 || guard.number >= first_node() + guard_nodes)
      return "a guard of no number";
  }
  if (guard_nodes > static_cast<int>(nodes.size())) return "guards of nodes that are not there";
  if (arrays < 2 || arrays >= first_register || written >> arrays != 0) return "arrays";
  if (steps.size() > max_instructions) return "too many instructions";
  for (const Step& step : steps) {
    const auto is_place = [&](int place) {
      return place < arrays || (place >= first_register && place < first_register + max_registers);
    };
    if (!is_place(step.to) || !is_place(step.a) || !is_place(step.b) || !is_place(step.c)) {
      return "an instruction on a place that is not there";
    }
    if (step.to < arrays && (written >> step.to & 1) == 0) return "a write that is not told";
    if (step.to == 1) return "a write to the gradient";
    if (step.s < -1 || step.s >= count || step.t < -1 || step.t >= count) return "no such number";
  }
  return "";
}

void Traced::compute(std::vector<double>& numbers, int first, int end) const {
  for (int i = first; i < end; ++i) {
    numbers.push_back(result_of(nodes[i].op, numbers[nodes[i].a], numbers[nodes[i].b]));
  }
}

bool Traced::holds(const std::vector<double>& inputs, std::vector<double>& numbers) const {
  numbers.assign(inputs.begin(), inputs.end());
  numbers.insert(numbers.end(), constants.begin(), constants.end());
  compute(numbers, 0, guard_nodes);
  for (const Guard& guard : guards) {
    if ((numbers[guard.number] != 0) != guard.answer) return false;
  }
  return true;
}

void Traced::finish(std::vector<double>& numbers) const {
  compute(numbers, guard_nodes, static_cast<int>(nodes.size()));
}

}  // namespace fastopt
