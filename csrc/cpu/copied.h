// The last pass over a parameter's elements, which also writes its copy, where it has one.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"

namespace fastopt {

// Applies an item's kernel to its elements [begin, end), which begin and end at cuts
// (cpu/cut.h). What it has written is copied strip by strip, while that lies in the cache.
void step_elements(const Item& item, int64_t begin, int64_t end);

}  // namespace fastopt
