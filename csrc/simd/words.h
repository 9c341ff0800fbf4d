// Codes of 8 bits (numeric/code8.h) to vectors of floats and back.
//
// Words are the bits of a Vec<float>, or what is added to them. Every Words offers: construction
// from one word, load, extended (from bytes: the sign of int8_t, zeros above uint8_t), bits_of,
// float_of, & | +, larger and shifted_left, all as in numeric/code8.h; largest, of its lanes; and
// store_codes, which cuts the codes out of two vectors.
#pragma once

#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec.h"
#include "target.h"

#if defined(FASTOPT_SIMD_AVX512)
#include "simd/words_avx512.h"
#elif defined(FASTOPT_SIMD_AVX2)
#include "simd/words_avx2.h"
#elif defined(FASTOPT_SIMD_NEON)
#include "simd/words_neon.h"
#else
#include "simd/words_scalar.h"
#endif

FASTOPT_TARGET_BEGIN

template <DType coding>
FASTOPT_HOST_DEVICE Vec<float> load_coded(const uint8_t* codes, Vec<float> scale) {
  if constexpr (CodeOf<coding>::is_root) {
    return number_of<coding>(Words::extended(codes), scale);
  } else {
    return number_of<coding>(Words::extended(reinterpret_cast<const int8_t*>(codes)), scale);
  }
}

// Two vectors at once, as it takes fewer instructions to move the bytes of both together.
template <DType coding>
FASTOPT_HOST_DEVICE void store_coded(const float* x, Vec<float> inverse, const uint32_t* dither,
                                     uint8_t* to) {
  constexpr int lanes = Vec<float>::lanes;
  const Words first = dithered<coding>(Vec<float>::load(x), inverse, Words::load(dither));
  const Words second =
      dithered<coding>(Vec<float>::load(x + lanes), inverse, Words::load(dither + lanes));
  Words::store_codes<coding>(first, second, to);
}

// The bits of the largest magnitude so far, NaN above all. A root has no sign, unless it is a NaN.
struct Largest {
  Words bits = 0u;
  template <DType coding>
  FASTOPT_HOST_DEVICE void include(Vec<float> x) {
    const Words all = bits_of(x);
    bits = larger(bits, CodeOf<coding>::is_root ? all : all & 0x7fffffffu);
  }
};

FASTOPT_TARGET_END
