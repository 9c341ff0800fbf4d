// The face between the per-target object files and the rest: plain types and tables, no inline
// code, so that it can be included on both sides without two copies of a function.
#pragma once

#include <stdint.h>

namespace fastopt {

constexpr int max_states = 3;
constexpr int max_arrays = 2 + max_states;  // param, grad, states

enum class DType : int { float32, float64 };
constexpr int dtype_count = 2;

// Applies a rule (an object of the rule's class for this dtype) to elements [begin, end) of one
// parameter. arrays: param, grad, then the states in the rule's order; nullptr where not used.
using Kernel = void (*)(const void* rule, void* const* arrays, int64_t begin, int64_t end);

enum class RuleId : int;  // the position in FASTOPT_RULES

// One instruction set's kernels, and what it takes to run them.
struct Target {
  const char* name;
  const char* description;
  bool (*supported)();                   // by this machine
  const Kernel (*kernels)[dtype_count];  // [rule][dtype]
};

}  // namespace fastopt
