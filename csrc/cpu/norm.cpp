#include "cpu/norm.h"

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace fastopt {
namespace {

constexpr int64_t chunks_at_once = 64;  // for one thread

int64_t chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

int64_t chunk_size(int64_t size, int64_t chunk) {
  return std::min(sum_chunk, size - chunk * sum_chunk);
}

// Chunks [begin, end) of all arrays, counted through.
void sum_chunks(const std::vector<Values>& arrays, int64_t begin, int64_t end, double* partials) {
  int64_t first = 0;  // the array's first chunk
  for (const Values& values : arrays) {
    if (first >= end) break;
    const int64_t bytes = dtype_bytes[static_cast<int>(values.dtype)],
                  chunks = chunks_of(values.size);
    const Sum sum = target().sums_of_squares[static_cast<int>(values.dtype)];
    for (int64_t c = std::max<int64_t>(begin - first, 0); c < std::min(end - first, chunks); ++c) {
      const char* data = static_cast<const char*>(values.data) + c * sum_chunk * bytes;
      partials[first + c] = sum(data, chunk_size(values.size, c));
    }
    first += chunks;
  }
}

}  // namespace

double sum_of_chunks(double* partials, int64_t chunks) {
  if (chunks == 0) return 0;
  while (chunks > 1) {  // in place: chunk c's sum lands at or before what it was read from
    for (int64_t c = 0; c < chunks_of(chunks); ++c) {
      partials[c] = (*target().sum)(&partials[c * sum_chunk], chunk_size(chunks, c));
    }
    chunks = chunks_of(chunks);
  }
  return partials[0];
}

double sum_of_squares(const std::vector<Values>& arrays, int threads,
                      std::vector<double>& partials) {
  int64_t chunks = 0, elements = 0;
  for (const Values& values : arrays) {
    chunks += chunks_of(values.size);
    elements += values.size;
  }
  partials.resize(chunks);
  split(chunks, chunks_at_once, usable_threads(elements, threads),
        [&](int64_t begin, int64_t end) { sum_chunks(arrays, begin, end, partials.data()); });
  return sum_of_chunks(partials.data(), chunks);
}

}  // namespace fastopt
