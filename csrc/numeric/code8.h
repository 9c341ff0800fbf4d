// Blocks of up to 256 numbers in 8 bits each and one float32 scale.
//
// A code is the upper bits of a small float: x / scale lies between 0 and 512 - 2, and 2 + x /
// scale is a float whose exponent takes 3 bits. `signed8` keeps a sign and 4 bits of the fraction,
// `root8` the square root of what is never negative and 5 bits. Rounding is by a dither that
// differs from step to step: cut off at random, in proportion, small changes add up over the steps
// where rounding to nearest would lose them all. A code of root8 never reads as 0, since a number
// beside a root of 0 would be divided by next to nothing.
//
// A NaN or infinity makes the block's scale NaN, so that the block says so when it is read.
#pragma once

#include <stdint.h>

#include "numeric/storage.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

enum class Code : int { signed8, root8 };

template <Code code>
struct CodeOf {
  static constexpr bool is_root = code == Code::root8;
  static constexpr int shift = is_root ? 18 : 19;
  static constexpr float largest = is_root ? 502.0f : 494.0f;  // of x / scale
};

template <Code code>
FASTOPT_HOST_DEVICE float decoded(uint8_t bits, float scale) {
  constexpr uint32_t two = 0x40000000u;
  if constexpr (code == Code::root8) {
    const uint32_t at_least_1 = bits > 1 ? bits : 1;
    const float root = (float_of(two + (at_least_1 << CodeOf<code>::shift)) - 2.0f) * scale;
    return root * root;
  } else {
    const uint32_t sign = (bits & 0x80u) << 24, magnitude = (bits & 0x7fu) << CodeOf<code>::shift;
    return (float_of(sign | two | magnitude) - float_of(sign | two)) * scale;
  }
}

// `dither` is uniform in [0, 2^shift). `inverse` is a little below 1 / scale.
template <Code code>
FASTOPT_HOST_DEVICE uint8_t encoded(float x, float inverse, uint32_t dither) {
  const float y = x * inverse;
  if constexpr (code == Code::root8) {
    return static_cast<uint8_t>((bits_of(y + 2.0f) + dither) >> CodeOf<code>::shift);
  } else {
    const uint32_t bits = bits_of(y), magnitude = bits_of(float_of(bits & 0x7fffffffu) + 2.0f);
    const uint32_t code_bits = (magnitude + dither) >> CodeOf<code>::shift & 0x7fu;
    return static_cast<uint8_t>(code_bits | (bits >> 24 & 0x80u));
  }
}

template <Code code>
void decode(const uint8_t* from, float scale, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = decoded<code>(from[i], scale);
}

// Returns the scale. `x` is overwritten where the code keeps roots.
template <Code code>
float encode(float* x, uint8_t* to, const uint32_t* dither, int count) {
  uint32_t largest =
      0;  // of the magnitudes' bits, which compare as the magnitudes do, NaN above all
  for (int i = 0; i < count; ++i) {
    if (CodeOf<code>::is_root) x[i] = __builtin_sqrtf(x[i]);
    const uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest >= 0x7f800000u) {
    __builtin_memset(to, 0, count);
    return float_of(0x7fc00000u);
  }
  const float top = float_of(largest), least = 0x1p-100f;
  const float scale = (top < least ? least : top) * (1.0f / CodeOf<code>::largest);
  const float inverse = (1.0f - 0x1p-20f) / scale;  // the margin spares a clamp
  for (int i = 0; i < count; ++i) to[i] = encoded<code>(x[i], inverse, dither[i]);
  return scale;
}

FASTOPT_TARGET_END
