// The loop for bfloat16 parameters whose float32 numbers lie in two halves, beside gradients and
// states of any type that is no code: one pass.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "numeric/split.h"
#include "simd/pair.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The parameter and its lower halves.
struct SplitArray {
  using V = Pair;
  const Split data;
  FASTOPT_HOST_DEVICE explicit SplitArray(const Item& item)
      : data{static_cast<bfloat16*>(item.arrays[0]),
             static_cast<int16_t*>(item.packing->master_data)} {}
  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    __builtin_prefetch(data.hi + i);
    __builtin_prefetch(data.lo + i);
  }
  FASTOPT_HOST_DEVICE void touch(int64_t i) const {
    touch_page(data.hi + i);
    touch_page(data.lo + i);
  }
  template <class Act>
  FASTOPT_HOST_DEVICE auto with(int64_t i, Act act) const {
    Split at{data.hi + i, data.lo + i};
    return act(&at);
  }
  template <class Act>
  FASTOPT_HOST_DEVICE auto rounding(int64_t i, Act act) const {
    return with(i, act);
  }
};

template <class Rule>
struct SplitLoops {
  template <unsigned used, bool averages>
  static void run(const Item& item, int64_t begin, int64_t end) {
    const Loop<Rule, float, SplitArray, MixedArray, used, averages> loop(item, SplitArray(item));
    loop.run(item.rounding, begin, end);
  }
};

FASTOPT_TARGET_END
