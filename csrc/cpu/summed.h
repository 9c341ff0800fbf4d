// Steps of programs with sums over a tensor, in a pass for each stage of the program
// (cpu/traced.h).
//
// A pass before the last leaves what is to be summed up, chunk by chunk, and the chunks are added
// up by the tree of cpu/sum.h, so that threads meet at whole chunks. It writes to no array: the
// next one forms again what it needs.
#pragma once

#include <vector>

#include "cpu/kernel.h"
#include "cpu/traced.h"

namespace fastopt {

// A program and its numbers, without the size and the sums of a tensor.
//
// For CUDA some of its inputs may be `given` on the device, those that a parameter keeps as the
// last. Then it is one of several, and the device finds the one for a step.
struct Summed {
  const Traced* program;
  std::vector<double> numbers;
  std::vector<int> given = {};
  std::vector<Summed> others = {};
};

// As `run` (cpu/parallel.h), which hands over items whose rule has sums and that lie apart.
void run_summed(std::vector<Item>& items, int threads);

}  // namespace fastopt
