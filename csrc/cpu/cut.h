// Where work on a parameter may be cut.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/kernel.h"

namespace fastopt {

// Threads meet on multiples of this within a tensor, so that vectors stay aligned on both sides,
// and blocks of one dither whole.
constexpr int64_t grain = block_size;

// Where a cut through an item falls: at its ends, or between on a multiple of the grain, or where a
// block of codes begins.
inline int64_t cut(int64_t position, const Item& item) {
  if (position >= item.size) return item.size;
  position = std::max<int64_t>(position, 0);
  const int64_t row = item.packing == nullptr ? 0 : item.packing->row;
  if (row == 0) return position / grain * grain;
  return position / row * row + position % row / block_size * block_size;
}

}  // namespace fastopt
