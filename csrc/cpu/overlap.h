// Which arrays of a run lie in one memory.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"

namespace fastopt {

struct Bytes {
  const char *begin, *end;
  bool written;
};

// Those of one array of an item, which is there.
inline Bytes bytes_of(const Item& item, int array) {
  const int64_t size = dtype_bytes[static_cast<int>(item.dtypes[array])];
  const char* begin = static_cast<const char*>(item.arrays[array]);
  return {begin, begin + item.size * size, array != 1};
}

// Whether an array that is written shares memory with another of the same item, other than element
// by element: what kernels make of it would depend on how many elements they take at a time.
inline bool overlaps_itself(const Item& item) {
  const char *begins[max_arrays], *ends[max_arrays];
  int count = 0;
  for (int array = 0; array < max_arrays; ++array) {
    if (item.arrays[array] == nullptr) continue;
    const auto [begin, end, written] = bytes_of(item, array);
    for (int i = 0; i < count; ++i) {
      const bool apart = ends[i] <= begin || end <= begins[i];
      if (!apart && (begins[i] != begin || ends[i] != end)) return true;
    }
    begins[count] = begin;
    ends[count++] = end;
  }
  return false;
}

}  // namespace fastopt
