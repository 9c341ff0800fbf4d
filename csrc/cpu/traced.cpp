#include "cpu/traced.h"

#define FASTOPT_TARGET host
#include "rules/number_results.h"

namespace fastopt {
std::string Traced::trouble() const {
  for (int i = 0; i < static_cast<int>(nodes.size()); ++i) {
    const auto known = [&](int number) { return number >= 0 && number < first_node() + i; };
    if (!known(nodes[i].a) || !known(nodes[i].b)) return "a node of numbers that are not known";
  }
  for (const Guard& guard : guards) {
    if (guard.number < 0 || guard.number >= first_node() + guard_nodes)
      return "a guard of no number";
  }
  if (arrays < 2 || arrays >= first_summand || written >> arrays != 0) return "arrays";
  if (stages.empty() || given() < 1) return "no stages";
  for (int number : kept) {
    if (number < 0 || number >= first_node() + stages[0].nodes) return "a kept number of a sum";
  }
  int before = guard_nodes;
  for (const Stage& stage : stages) {
    if (stage.nodes < before || stage.nodes > static_cast<int>(nodes.size())) return "nodes";
    before = stage.nodes;
    const std::string found = trouble(stage, &stage == &stages.back());
    if (!found.empty()) return found;
  }
  return "";
}

std::string Traced::trouble(const Stage& stage, bool last) const {
  const int summands = static_cast<int>(stage.squares.size()), count = first_node() + stage.nodes;
  if (last != (summands == 0) || summands > max_summands) return "summands";
  if (stage.steps.size() > max_instructions) return "too many instructions";
  for (const Step& step : stage.steps) {
    const auto is_place = [&](int place) {
      return place < arrays || (place >= first_summand && place < first_summand + summands) ||
             (place >= first_register && place < first_register + max_registers);
    };
    if (!is_place(step.to) || !is_place(step.a) || !is_place(step.b) || !is_place(step.c)) {
      return "an instruction on a place that is not there";
    }
    if (step.to < arrays && (!last || (written >> step.to & 1) == 0)) {
      return "a write that is not told";
    }
    if (step.to == 1) return "a write to the gradient";
    if (step.s < -1 || step.s >= count || step.t < -1 || step.t >= count) return "no such number";
  }
  return "";
}

int Traced::given() const {
  int sums = 0;
  for (const Stage& stage : stages) sums += static_cast<int>(stage.squares.size());
  return sums == 0 ? inputs : inputs - 1 - sums;
}

void Traced::begin(const std::vector<double>& inputs, std::vector<double>& numbers) const {
  numbers.assign(inputs.begin(), inputs.end());
  numbers.resize(this->inputs, 0.0);
  numbers.insert(numbers.end(), constants.begin(), constants.end());
  numbers.resize(first_node() + nodes.size(), 0.0);
}

bool Traced::holds(const std::vector<double>& inputs, std::vector<double>& numbers) const {
  begin(inputs, numbers);
  for (int i = 0; i < guard_nodes; ++i) {
    numbers[first_node() + i] =
        host::result_of(nodes[i].op, numbers[nodes[i].a], numbers[nodes[i].b]);
  }
  for (const Guard& guard : guards) {
    if ((numbers[guard.number] != 0) != guard.answer) return false;
  }
  return true;
}

bool Traced::may_hold(const std::vector<double>& inputs, const std::vector<int>& given) const {
  std::vector<double> numbers;
  begin(inputs, numbers);
  std::vector<bool> is_open(numbers.size());  // whether it comes of what is given
  for (int number : given) is_open[number] = true;
  for (int i = 0; i < guard_nodes; ++i) {
    const Node& node = nodes[i];
    numbers[first_node() + i] = host::result_of(node.op, numbers[node.a], numbers[node.b]);
    is_open[first_node() + i] = is_open[node.a] || is_open[node.b];
  }
  for (const Guard& guard : guards) {
    if (!is_open[guard.number] && (numbers[guard.number] != 0) != guard.answer) return false;
  }
  return true;
}

void Traced::compute(std::size_t stage, std::vector<double>& numbers) const {
  const int from = stage == 0 ? guard_nodes : stages[stage - 1].nodes;
  for (int i = from; i < stages[stage].nodes; ++i) {
    numbers[first_node() + i] =
        host::result_of(nodes[i].op, numbers[nodes[i].a], numbers[nodes[i].b]);
  }
}

}  // namespace fastopt
