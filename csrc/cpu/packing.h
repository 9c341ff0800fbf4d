// What dtypes do not say of how a parameter and its states are stored: plain data for
// cpu/packed.h, cpu/coded.h, cpu/rounded.h, CUDA and the bindings.
#pragma once

#include <stdint.h>

#include "numeric/dtype.h"

namespace fastopt {

constexpr int max_states = 5;  // of a rule

// What stands behind a 16-bit parameter.
enum class Master : int {
  none,
  low_half,    // of bfloat16: the lower halves of float32 numbers (numeric/split.h)
  whole,       // the float32 numbers themselves
  stochastic,  // nothing: a bfloat16 parameter is rounded up or down at random
};

struct Packing {
  Master master = Master::none;
  void* master_data = nullptr;
  uint64_t seed = 0, offset = 0, index = 0;  // of the first element's draw, for stochastic

  // Of the states that are codes.
  float* scales[max_states] = {};  // (rows, blocks of a row)
  int64_t row = 0;                 // elements; 0 if there are none
  int64_t first_row = 0;           // where the rows lie in the whole parameter
  const Dither* dither = nullptr;
};

}  // namespace fastopt
