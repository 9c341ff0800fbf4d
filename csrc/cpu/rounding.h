// Where the states of a loop's elements find the draws by which they are rounded to 16 bits.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "numeric/dither.h"
#include "numeric/half.h"
#include "simd/pair.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Elements from `begin` on, up to `end`, whose draws follow each other; all of them where none is
// drawn for.
struct Stretch {
  int64_t end;
  const uint16_t* draws[max_states] = {};  // of each state: where that of element 0 would be

  FASTOPT_HOST_DEVICE Stretch(const Rounding& rounding, int64_t begin, int64_t behind)
      : end(behind) {
    if (rounding.dither == nullptr) return;
    const int64_t place = rounding.first + begin;
    const int64_t rest = block_size - place % block_size;
    if (rest < end - begin) end = begin + rest;
    for (int state = 0; state < max_states; ++state) {
      draws[state] = rounding.dither->draws + half_dither_place(place, state) - begin;
    }
  }
};

// act on where a number is to be stored, with its draw if that has 16 bits.
template <class Stored, class Act>
FASTOPT_HOST_DEVICE auto by_draw(Stored* at, const uint16_t*, int64_t, Act act) {
  return act(at);
}
template <class Act>
FASTOPT_HOST_DEVICE auto by_draw(bfloat16* at, const uint16_t* draws, int64_t i, Act act) {
  Drawn<bfloat16> to{at, draws + i};
  return act(&to);
}
template <class Act>
FASTOPT_HOST_DEVICE auto by_draw(InOrder* at, const uint16_t* draws, int64_t i, Act act) {
  Drawn<InOrder> to{at, draws + i};
  return act(&to);
}
template <class Act>
FASTOPT_HOST_DEVICE auto by_draw(float16* at, const uint16_t* draws, int64_t i, Act act) {
  Drawn<float16> to{at, draws + i};
  return act(&to);
}

FASTOPT_TARGET_END
