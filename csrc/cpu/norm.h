// The sum of squares of many arrays, with the same bits on every target and thread count.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

struct Values {
  const void* data;
  int64_t size;
  DType dtype;
};

// Adds up the sums of chunks by the same tree, until one number is left. Overwrites them.
double sum_of_chunks(double* partials, int64_t chunks);

// `partials` is scratch, kept by the caller for its capacity.
double sum_of_squares(const std::vector<Values>& arrays, int threads,
                      std::vector<double>& partials);

}  // namespace fastopt
