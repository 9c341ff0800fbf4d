// Steps of rules with norms (rules/rule.h), in two passes over each parameter.
//
// The first pass updates the states and sums up the squares of the parameter and of the update,
// chunk by chunk, by the tree of cpu/sum.h; the second forms the update again, from the parameter
// and its states, and takes the step by what the two norms say. So threads meet at whole chunks.
#pragma once

#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

// As `run` (cpu/parallel.h), which hands over items whose rule has norms and that lie apart.
void run_normed(std::vector<Item>& items, int threads);

}  // namespace fastopt
