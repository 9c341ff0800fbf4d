// What takes several turns where no instruction does it in one: the last elements of an array, lane
// by lane, and two vectors one after the other.
#pragma once

#include <stdint.h>

#include "numeric/half.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class V, class T>
FASTOPT_HOST_DEVICE V load_lanes(const T* from, int count) {
  T lane[V::lanes] = {};
  for (int i = 0; i < count; ++i) lane[i] = from[i];
  return V::load(lane);
}

template <class V, class T>
FASTOPT_HOST_DEVICE void store_lanes(V v, T* to, int count) {
  T lane[V::lanes];
  v.store(lane);
  for (int i = 0; i < count; ++i) to[i] = lane[i];
}

template <class V, class Half>
FASTOPT_HOST_DEVICE void store_lanes(V v, Drawn<Half>* to, int count) {
  Half lane[V::lanes];
  uint16_t draws[V::lanes] = {};
  for (int i = 0; i < count; ++i) draws[i] = to->draws[i];
  Drawn<Half> all{lane, draws};
  v.store(&all);
  for (int i = 0; i < count; ++i) to->to[i] = lane[i];
}

template <class V>
FASTOPT_HOST_DEVICE void store_both(V first, V second, bfloat16* to) {
  first.store(to);
  second.store(to + V::lanes);
}

template <class V>
FASTOPT_HOST_DEVICE void store_both(V first, V second, bfloat16* to, const uint16_t* draws) {
  Drawn<bfloat16> low{to, draws}, high{to + V::lanes, draws + V::lanes};
  first.store(&low);
  second.store(&high);
}

FASTOPT_TARGET_END
