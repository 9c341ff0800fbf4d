// What numbers are stored in, and by what they are rounded to 8 or 16 bits, as plain data:
// numeric/code8.h, numeric/half.h and numeric/dither.h have the arithmetic.
#pragma once

#include <stdint.h>

namespace fastopt {

// What an array is stored in. The first two are also what kernels compute in; the codes, of 8 bits,
// are for states.
enum class DType : int {
  float32,
  float64,
  bfloat16,
  float16,
  signed8,  // a sign, 3 bits of exponent and 4 of the fraction
  root8,    // the root of what is never negative: 3 bits of exponent and 5 of the fraction
};
constexpr int compute_count = 2;
constexpr int dtype_count = 4;  // without the codes
constexpr int64_t dtype_bytes[] = {4, 8, 2, 2, 1, 1};

constexpr int64_t block_size = 256;  // elements that share a scale; within a row
constexpr int dither_size = 2 * block_size;

// Numbers of this step in [0, 2^19) for signed8 and in [0, 2^18) for root8, each less the bits of
// the float 2: that is what a code is added to (numeric/code8.h).
struct Dither {
  uint32_t signed8[dither_size], root8[dither_size];
};

// Block b takes the dither from (b * dither_factor mod 2^32) / 2^24 on.
constexpr uint32_t dither_factor = 0x9E3779B1u;

// Numbers of this step in [0, 2^16), for states that are stored in 16 bits.
struct HalfDither {
  uint16_t draws[dither_size];
};

// Which of them a parameter's states take: element i is the whole parameter's element first + i.
// There are none where no state is stored so.
struct Rounding {
  const HalfDither* dither = nullptr;
  int64_t first = 0;
};

}  // namespace fastopt
