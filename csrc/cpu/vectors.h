// Passes over long vectors, for L-BFGS: the face between the per-target object files and
// cpu/lbfgs.cpp. Plain data.
#pragma once

#include <stdint.h>

namespace fastopt {

// Each works on `count` elements, at most sum_chunk, of arrays of one type. What is summed up is
// summed up in double by the tree in cpu/sum.h.
struct VectorKernels {
  // sums = {of |a|, of a b, the largest |a|}. Without b, the second is 0.
  void (*measure)(const void* a, const void* b, int64_t count, double* sums);

  // step = t direction, change = grad - prev_grad.
  void (*pair)(const void* grad, const void* prev_grad, const void* direction, double t, void* step,
               void* change, int64_t count);

  // sums[2 r] = rows[r] · a, sums[2 r + 1] = rows[r] · b. An even number of
  // rows, read from `begin` on.
  void (*dots)(const void* const* rows, int64_t row_count, int64_t begin, const void* a,
               const void* b, int64_t count, double* sums);

  // out = the sum of weights[r] rows[r], in this order, in double, rounded once. An odd number of
  // rows, read from `begin` on.
  void (*combine)(const void* const* rows, const double* weights, int64_t row_count, int64_t begin,
                  void* out, int64_t count);

  // to = from + t direction. Of any number of elements.
  void (*move)(const void* from, const void* direction, double t, void* to, int64_t count);
};

}  // namespace fastopt
