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

#include "numeric/dtype.h"
#include "numeric/half.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <DType coding>
struct CodeOf {
  static_assert(coding == DType::signed8 || coding == DType::root8);
  static constexpr bool is_root = coding == DType::root8;
  static constexpr int shift = is_root ? 18 : 19;
  static constexpr float largest = is_root ? 502.0f : 494.0f;  // of x / scale
};

FASTOPT_HOST_DEVICE bool is_code(DType dtype) {
  return dtype == DType::signed8 || dtype == DType::root8;
}

// The formulas below hold for a number and, lane by lane, for a vector of them (simd/codes.h).
FASTOPT_HOST_DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
FASTOPT_HOST_DEVICE uint32_t with_bits(uint32_t a, uint32_t of_b, uint32_t b) {
  return a | (of_b & b);
}
template <int bits>
FASTOPT_HOST_DEVICE uint32_t shifted_left(uint32_t a) {
  return a << bits;
}

// A code's byte, extended by its sign if it has one, to what it stands for.
template <DType coding, class Bits, class Number>
FASTOPT_HOST_DEVICE Number number_of(Bits code, Number scale) {
  using Code = CodeOf<coding>;
  const Bits two = 0x40000000u;
  if constexpr (Code::is_root) {
    const Bits at_least_1 = larger(code, 1u);
    const Number root = (float_of(shifted_left<Code::shift>(at_least_1) | two) - 2.0f) * scale;
    return root * root;
  } else {
    const Bits sign = 0x80000000u, kept = 0x80000000u | 0x7fu << Code::shift;
    const Bits bits = shifted_left<Code::shift>(code);
    return (float_of(with_bits(two, kept, bits)) - float_of(with_bits(two, sign, bits))) * scale;
  }
}

template <DType coding>
FASTOPT_HOST_DEVICE float decoded(uint8_t code, float scale) {
  const int extended = CodeOf<coding>::is_root ? code : static_cast<int8_t>(code);
  return number_of<coding>(static_cast<uint32_t>(extended), scale);
}

// What the code is cut from: the bits of the float, with the dither and less those of 2 (Dither),
// so that nothing but a sign stands above the code. `x` is the root where the code keeps that.
template <DType coding, class Number, class Bits>
FASTOPT_HOST_DEVICE Bits dithered(Number x, Number inverse, Bits dither) {
  const Number y = x * inverse;
  if constexpr (CodeOf<coding>::is_root) {
    return bits_of(y + 2.0f) + dither;
  } else {
    const Bits two = 0x40000000u, sign = 0x80000000u;
    return bits_of(y + float_of(with_bits(two, sign, bits_of(y)))) + dither;
  }
}

template <DType coding>
FASTOPT_HOST_DEVICE uint8_t code_of(uint32_t float_bits) {
  const uint32_t code = float_bits >> CodeOf<coding>::shift;
  if constexpr (CodeOf<coding>::is_root) return static_cast<uint8_t>(code);
  return static_cast<uint8_t>((code & 0x7fu) | (float_bits >> 24 & 0x80u));
}

template <DType coding>
FASTOPT_HOST_DEVICE uint8_t encoded(float x, float inverse, uint32_t dither) {
  return code_of<coding>(dithered<coding>(x, inverse, dither));
}

// A block's scale, and a little less than its inverse: the margin spares a clamp.
struct BlockScale {
  float scale, inverse;
};

// From the largest magnitude's bits, which compare as the magnitudes do, NaN above all. One that is
// not finite gives 0 for the inverse; the numbers must then be taken for 0.
template <DType coding>
FASTOPT_HOST_DEVICE BlockScale block_scale(uint32_t largest) {
  if (largest >= 0x7f800000u) return {float_of(0x7fc00000u), 0};
  const float top = float_of(largest), least = 0x1p-100f;
  const float scale = (top < least ? least : top) * (1.0f / CodeOf<coding>::largest);
  return {scale, (1.0f - 0x1p-20f) / scale};
}

template <DType coding>
FASTOPT_HOST_DEVICE void decode(const uint8_t* __restrict from, float scale, float* __restrict to,
                                int count) {
  for (int i = 0; i < count; ++i) to[i] = decoded<coding>(from[i], scale);
}

// The scale of a block, from the largest magnitude; its numbers become 0 where that is NaN.
template <DType coding>
FASTOPT_HOST_DEVICE BlockScale scaled(float* x, int count, uint32_t largest) {
  const BlockScale scale = block_scale<coding>(largest);
  if (scale.inverse == 0) __builtin_memset(x, 0, count * sizeof *x);
  return scale;
}

template <DType coding>
FASTOPT_HOST_DEVICE BlockScale measure(float* x, int count) {
  uint32_t largest = 0;
  for (int i = 0; i < count; ++i) largest = larger(largest, bits_of(x[i]) & 0x7fffffffu);
  return scaled<coding>(x, count, largest);
}

template <DType coding>
FASTOPT_HOST_DEVICE void encode(const float* __restrict x, float inverse,
                                const uint32_t* __restrict dither, uint8_t* __restrict to,
                                int count) {
  for (int i = 0; i < count; ++i) to[i] = encoded<coding>(x[i], inverse, dither[i]);
}

FASTOPT_TARGET_END
