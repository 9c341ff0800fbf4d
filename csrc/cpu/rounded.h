// The loop for bfloat16 parameters that are rounded at random, all arrays bfloat16: one pass.
//
// The draws of a piece and the rule's loop over it take turns, since one keeps the multipliers busy
// and the other the dividers (bench/NOTES.md, 16).
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "simd/pair.h"
#include "simd/rounding_draws.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The parameter, with a buffer of draws that moves along.
struct RoundedArray : ArrayOf<bfloat16, Pair> {
  const uint16_t* const* first;  // where the draw of element 0 would be
  FASTOPT_HOST_DEVICE RoundedArray(const Item& item, const uint16_t* const* first)
      : ArrayOf<bfloat16, Pair>(item, 0), first(first) {}
  template <class Act>
  FASTOPT_HOST_DEVICE auto rounding(int64_t i, Act act) const {
    return by_draw(data + i, *first, i, act);
  }
};

template <class Rule>
struct RoundedLoops {
  template <unsigned used, bool averages>
  static void run(const Item& item, int64_t begin, int64_t end) {
    using Array = ArrayOf<bfloat16, Pair>;
    constexpr int piece = RoundingDraws::at_once;
    const Packing& packing = *item.packing;
    RoundingDraws draws(packing.seed, packing.offset, packing.index + begin);
    alignas(64) uint16_t numbers[piece];
    const uint16_t* first;
    const Loop<Rule, float, RoundedArray, Array, used, averages> loop(item,
                                                                      RoundedArray(item, &first));
    for (int64_t i = begin; i < end; i += piece) {
      draws.next(numbers);
      first = numbers - i;
      loop.run(item.rounding, i, end - i < piece ? end : i + piece);
    }
  }
};

FASTOPT_TARGET_END
