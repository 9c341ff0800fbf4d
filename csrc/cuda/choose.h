// Finds the kernel of a rule for the states that are there.
#pragma once

#include "cuda/launch.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// One state after another. `states` has a bit for each; Kernels::Of<used> is the kernel with those.
template <class Rule, class Kernels, unsigned used = 0, int state = 0>
const char* launch_kernel(const typename Kernels::Table& table, unsigned states, int64_t blocks,
                          void* stream) {
  if constexpr (state < Rule::state_count) {
    if (state < Rule::required || (states >> state & 1) != 0) {
      return launch_kernel<Rule, Kernels, (used | 1u << state), state + 1>(table, states, blocks,
                                                                           stream);
    }
    if constexpr (state >= Rule::required) {
      return launch_kernel<Rule, Kernels, used, state + 1>(table, states, blocks, stream);
    }
    return nullptr;
  } else {
    return launch<typename Kernels::template Of<used>>(table, blocks, stream);
  }
}

FASTOPT_TARGET_END
