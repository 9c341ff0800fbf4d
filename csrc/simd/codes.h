// Codes of 8 bits (numeric/code8.h) to vectors of floats and back.
//
// Words32 are the bits of a Vec<float>, or what is added to them. They offer: construction from one
// word, load (from memory of any type), extended (from bytes: the sign of int8_t, zeros above
// uint8_t), bits_of, float_of, & | +, larger, with_bits and shifted_left, all as in
// numeric/code8.h, but that lanes may be shifted by bits of their own, too; largest, of its lanes;
// and store_codes, which cuts the codes out of two vectors.
#pragma once

#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <DType coding>
FASTOPT_HOST_DEVICE Vec<float> load_coded(const uint8_t* codes, Vec<float> scale) {
  if constexpr (CodeOf<coding>::is_root) {
    return number_of<coding>(Words32::extended(codes), scale);
  } else {
    return number_of<coding>(Words32::extended(reinterpret_cast<const int8_t*>(codes)), scale);
  }
}

// Two vectors at once, as it takes fewer instructions to move the bytes of both together.
template <DType coding>
FASTOPT_HOST_DEVICE void store_coded(const float* x, Vec<float> inverse, const uint32_t* dither,
                                     uint8_t* to) {
  constexpr int lanes = Vec<float>::lanes;
  const Words32 first = dithered<coding>(Vec<float>::load(x), inverse, Words32::load(dither));
  const Words32 second =
      dithered<coding>(Vec<float>::load(x + lanes), inverse, Words32::load(dither + lanes));
  Words32::store_codes<coding>(first, second, to);
}

// The bits of the largest magnitude so far, NaN above all. A root has no sign, unless it is a NaN.
struct Largest {
  Words32 bits = 0u;
  template <DType coding>
  FASTOPT_HOST_DEVICE void include(Vec<float> x) {
    const Words32 all = bits_of(x);
    bits = larger(bits, CodeOf<coding>::is_root ? all : all & 0x7fffffffu);
  }
};

FASTOPT_TARGET_END
