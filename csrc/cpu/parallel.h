// Runs a list of parameters as one concatenated index space, on one thread or on OpenMP's pool.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernel.h"

namespace fastopt {

// One parameter of a step: a kernel, the rule that it applies and the arrays that it works on.
struct Item {
  Kernel kernel;
  const void* rule;
  void* arrays[max_arrays];
  int64_t size;
  int element_bytes;
};

// Every item, once. `threads` is an upper bound: small work stays on the calling thread, and so do
// parameters that lie in one memory.
void run(const Item* items, std::size_t count, int threads);

}  // namespace fastopt
