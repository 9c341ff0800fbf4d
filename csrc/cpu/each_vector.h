// A loop over vectors of elements, the last of which may be there in part only.
#pragma once

#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

// act(i, load, store) on one vector after another, from element i on.
template <class V, class Act>
FASTOPT_HOST_DEVICE void each_vector(int64_t count, Act act) {
  int64_t i = 0;
  for (; i <= count - V::lanes; i += V::lanes) {
    act(i, [](const auto* from) { return V::load(from); }, [](V v, auto* to) { v.store(to); });
  }
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    act(
        i, [rest](const auto* from) { return V::load_first(from, rest); },
        [rest](V v, auto* to) { v.store_first(to, rest); });
  }
}

FASTOPT_TARGET_END
