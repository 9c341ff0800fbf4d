// What rules in Python have been traced to, read from tests/data/rule_programs.txt.
//
// A line is of one rule, step and choice of options: the rule, the step, how many arrays it has and
// which are written, how many instructions, and these: the operation, where its result goes, three
// operands, two numbers in double. Then come the options.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "rules/program.h"

namespace fastopt_test {

struct Program {
  int arrays;
  unsigned written;
  std::vector<fastopt::Instruction<double>> code;

  // The instructions with their numbers rounded to what is computed in.
  template <class T>
  std::vector<fastopt::Instruction<T>> rounded() const {
    std::vector<fastopt::Instruction<T>> made;
    for (const auto& it : code) {
      made.push_back({it.op, it.to, it.a, it.b, it.c, static_cast<T>(it.s), static_cast<T>(it.t)});
    }
    return made;
  }

  bool waits() const {
    return std::any_of(code.begin(), code.end(),
                       [](const auto& it) { return fastopt::waits(it.op); });
  }
};

inline fastopt::Op operation(const std::string& name) {
#define FASTOPT_FIND(op) \
  if (name == #op) return fastopt::Op::op;
  FASTOPT_PROGRAM_OPS(FASTOPT_FIND)
#undef FASTOPT_FIND
  std::abort();
}

// By rule, step and options.
using Programs = std::map<std::tuple<std::string, double, std::string>, Program>;

inline Programs read_programs(const char* path) {
  Programs found;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string rule, op, s, t, options;
    double step;
    std::size_t length;
    Program program;
    words >> rule >> step >> program.arrays >> program.written >> length;
    while (program.code.size() < length) {
      int to, a, b, c;
      words >> op >> to >> a >> b >> c >> s >> t;
      program.code.push_back({operation(op), static_cast<uint8_t>(to), static_cast<uint8_t>(a),
                              static_cast<uint8_t>(b), static_cast<uint8_t>(c),
                              std::strtod(s.c_str(), nullptr), std::strtod(t.c_str(), nullptr)});
    }
    std::getline(words, options);
    found.insert({{rule, step, options}, program});
  }
  return found;
}

}  // namespace fastopt_test
