// Numbers between what they are stored in and float.
#pragma once

#include <stdint.h>

#include "numeric/storage.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class Half>
FASTOPT_HOST_DEVICE void unpack(const Half* from, float* to, int64_t count) {
  using V = Vec<float>;
  int64_t i = 0;
  for (; i <= count - V::lanes; i += V::lanes) {
    __builtin_prefetch(reinterpret_cast<const char*>(from + i) + 2048);
    V::load(from + i).store(to + i);
  }
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    V::load_first(from + i, rest).store_first(to + i, rest);
  }
}

template <class Half>
FASTOPT_HOST_DEVICE void pack(const float* from, Half* to, int64_t count) {
  using V = Vec<float>;
  int64_t i = 0;
  for (; i <= count - V::lanes; i += V::lanes) V::load(from + i).store(to + i);
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    V::load_first(from + i, rest).store_first(to + i, rest);
  }
}

FASTOPT_TARGET_END
