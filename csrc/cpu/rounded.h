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
    void* arrays[max_arrays + 1];
    for (int array = 0; array < max_arrays; ++array) arrays[array] = item.arrays[array];
    arrays[max_arrays] = &first;
    const Loop<Rule, float, RoundedArray, Array, used, averages> loop(*item.rule, arrays,
                                                                      item.dtypes);
    for (int64_t i = begin; i < end; i += piece) {
      draws.next(numbers);
      first = numbers - i;
      loop.run(item.rounding, i, end - i < piece ? end : i + piece);
    }
  }
};

template <class Rule>
void run_rounded(const Item& item, int64_t begin, int64_t end) {
  choose_loop<Rule, RoundedLoops<Rule>>(item.arrays, item, begin, end);
}

FASTOPT_TARGET_END
