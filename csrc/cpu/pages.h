// Pages of the arrays that a loop streams through, found before they are read.
//
// To find where a page of 4 KB lies takes longer than to fetch its lines, longest in a virtual
// machine, which walks two tables; and hardware prefetchers stop where a page ends. So once a
// page's worth of elements a loop asks for one line of each array some pages ahead (bench/NOTES.md,
// 18m).
#pragma once

#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int64_t page_size = 1024;  // elements of float32

// Where the elements from i on stop to be of one page, and no further than `end`.
FASTOPT_HOST_DEVICE int64_t page_end(int64_t i, int64_t end) {
  const int64_t next = i / page_size * page_size + page_size;
  return next < end ? next : end;
}

// Whether a loop that stands at element i of `size` and goes on by `step` is to touch pages: once
// in each page, and not where the arrays end.
FASTOPT_HOST_DEVICE bool is_page_due(int64_t i, int64_t step, int64_t size) {
  return i % page_size < step && i + 8 * page_size < size;
}

// The same for a loop that is given a chunk at a time, up to `end`: what is shorter than a page
// touches none.
FASTOPT_HOST_DEVICE bool is_page_due(int64_t i, int64_t end) {
  return i % page_size == 0 && end - i >= page_size;
}

FASTOPT_HOST_DEVICE void touch_page(const void* at) {
  constexpr int64_t ahead = 17 * 1024;  // bytes; no multiple of a page's
  __builtin_prefetch(static_cast<const char*>(at) + ahead);
}

FASTOPT_TARGET_END
