// A float in two 16-bit halves, of which the first is a bfloat16 near it.
//
// hi is the upper half of the bits, plus one if lo, the lower half as a signed number, is negative:
// so hi rounds to nearest, and both together are the float. Ties go up and not to even: hi is one
// bfloat16 above to_bfloat16 for 1 in 131,072 floats, which no split into two halves can avoid. NaN
// is made canonical first, since the carry could make a number of one.
//
// So no two halves make a NaN of a hi that is none. Where they would, hi has been written to since
// by someone who does not know of lo (a zero, say), and it stands alone.
#pragma once

#include "numeric/half.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

FASTOPT_HOST_DEVICE float joined(bfloat16 hi, int16_t lo) {
  const uint32_t upper = static_cast<uint16_t>(hi.bits - (lo < 0));
  const uint32_t bits = upper << 16 | static_cast<uint16_t>(lo);
  return (bits & 0x7fffffffu) > 0x7f800000u ? to_float(hi) : float_of(bits);
}

FASTOPT_HOST_DEVICE bfloat16 split_float(float x, int16_t& lo) {
  uint32_t bits = bits_of(x);
  bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
  lo = static_cast<int16_t>(bits);
  return {static_cast<uint16_t>((bits >> 16) + (lo < 0))};
}

// Where numbers lie in two halves.
struct Split {
  bfloat16* hi;
  int16_t* lo;
};

// What a float16 parameter and the float32 number behind it stand for: one that is not that number
// rounded has been written to since, and it is the one that counts.
FASTOPT_HOST_DEVICE float restored(float16 param, float master) {
  return to_float16(master).bits == param.bits ? master : to_float(param);
}

FASTOPT_TARGET_END
