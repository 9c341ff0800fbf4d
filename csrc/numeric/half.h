// The types of 16 bits, bfloat16 and float16, which numbers are stored in but not computed in.
//
// From float, both round to nearest even, or by a draw; denormals are kept, NaN stays a quiet NaN,
// and what is too large becomes infinite. Rounding to nearest is in integer arithmetic, which no
// floating-point mode can touch. A GPU has no such mode, and conversions of its own: the same bits
// but for the payload of NaN, which is nobody's to rely on (docs/numerics.md).
#pragma once

#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// What the kernels compute in.
template <class Stored>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define FASTOPT_CONVERTS
#endif

FASTOPT_HOST_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTOPT_HOST_DEVICE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

FASTOPT_HOST_DEVICE float to_float(bfloat16 x) { return float_of(uint32_t{x.bits} << 16); }

FASTOPT_HOST_DEVICE bfloat16 to_bfloat16(float x) {
#ifdef FASTOPT_CONVERTS
  bfloat16 rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
  return rounded;
#else
  const uint32_t bits = bits_of(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1);
  return {static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16)};
#endif
}

FASTOPT_HOST_DEVICE float to_float(float16 x) {
#ifdef FASTOPT_CONVERTS
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude < 0x400) {  // a multiple of 2^-24
    return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
  }
  if (magnitude < 0x7c00) return float_of(sign | ((magnitude << 13) + 0x38000000u));
  const uint32_t quiet = magnitude > 0x7c00 ? 0x400000u : 0;
  return float_of(sign | 0x7f800000u | quiet | magnitude << 13);
#endif
}

FASTOPT_HOST_DEVICE float16 to_float16(float x) {
#ifdef FASTOPT_CONVERTS
  float16 rounded;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
  return rounded;
#else
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const auto with_sign = [bits](uint32_t half) {
    return float16{static_cast<uint16_t>((bits >> 16 & 0x8000u) | half)};
  };
  if (magnitude > 0x7f800000u) return with_sign(0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x47800000u) return with_sign(0x7c00u);  // 2^16 and above
  if (magnitude >= 0x38800000u) {                           // normal; may round up to infinity
    return with_sign((magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13);
  }
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return with_sign(0);  // below half of 2^-24
  const uint32_t shift = 126 - exponent, significand = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t whole = significand >> shift, rest = significand - (whole << shift);
  const uint32_t half = 1u << (shift - 1);
  return with_sign(whole + (rest > half || (rest == half && (whole & 1))));
#endif
}

// Rounded up with the probability of the part that is cut off: draw / 65536 is uniform in [0, 1).
// The upper half of this is what is rounded.
FASTOPT_HOST_DEVICE uint32_t rounded_by(float x, uint32_t draw) {
  uint32_t bits = bits_of(x);
#ifdef FASTOPT_CONVERTS
  // A NaN of a GPU's arithmetic, or of 16 bits, says so in its upper half.
  asm("{\n"
      ".reg .pred finite;\n"
      ".reg .f32 magnitude;\n"
      "abs.f32 magnitude, %1;\n"
      "setp.lt.f32 finite, magnitude, 0f7F800000;\n"
      "@finite add.u32 %0, %0, %2;\n"
      "}"
      : "+r"(bits)
      : "f"(x), "r"(draw));
  return bits;
#else
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t quiet = magnitude > 0x7f800000u ? 0x400000u : 0;
  return (magnitude < 0x7f800000u ? bits + draw : bits) | quiet;
#endif
}
FASTOPT_HOST_DEVICE bfloat16 to_bfloat16(float x, uint16_t draw) {
  return {static_cast<uint16_t>(rounded_by(x, draw) >> 16)};
}

// The upper halves of two words, the first one's below.
FASTOPT_HOST_DEVICE uint32_t upper_halves(uint32_t first, uint32_t second) {
#ifdef __CUDA_ARCH__
  return __byte_perm(first, second, 0x7632);
#else
  return first >> 16 | (second & 0xffff0000u);
#endif
}

// Likewise, by the draw's upper 13 bits. Below 2^-14, in multiples of 2^-24, the sum is rounded to
// float, which moves no number that float16 holds.
FASTOPT_HOST_DEVICE float16 to_float16(float x, uint16_t draw) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu, part = draw >> 3;
  uint32_t half = 0x7e00u;
  if (magnitude < 0x38800000u) {
    const float multiple = float_of(magnitude) * 0x1p24f;
    half = static_cast<uint32_t>(multiple + static_cast<float>(part) * 0x1p-13f);
  } else if (magnitude <= 0x7f800000u) {
    half = (magnitude + part - 0x38000000u) >> 13;
    half = half < 0x7c00u ? half : 0x7c00u;
  }
  return {static_cast<uint16_t>((bits >> 16 & 0x8000u) | half)};
}

// Where numbers are stored that are rounded by a draw each.
template <class Half>
struct Drawn {
  Half* to;
  const uint16_t* draws;
};

FASTOPT_TARGET_END
