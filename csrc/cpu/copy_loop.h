// Copies of a parameter, rounded to nearest even as they are stored.
#pragma once

#include <stdint.h>

#include "cpu/each_vector.h"
#include "cpu/kernel.h"
#include "numeric/split.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class From, class To>
FASTOPT_HOST_DEVICE void round_to(const From* from, To* to, int64_t count) {
  each_vector<Vec<float>>(count,
                          [=](int64_t i, auto load, auto store) { store(load(from + i), to + i); });
}

inline void round_to(const double* from, double* to, int64_t count) {
  __builtin_memcpy(to, from, static_cast<uint64_t>(count) * sizeof *to);
}

inline void round_to(const double* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// To the item's copy, from its element `begin` on.
template <class From>
void copy_from(const From* from, const Item& item, int64_t begin, int64_t count) {
  if (item.copy_dtype == DType::float32) {
    return round_to(from, static_cast<float*>(item.copy) + begin, count);
  }
  if constexpr (sizeof(From) == sizeof(double)) {
    round_to(from, static_cast<double*>(item.copy) + begin, count);
  } else if (item.copy_dtype == DType::bfloat16) {
    round_to(from, static_cast<bfloat16*>(item.copy) + begin, count);
  } else {
    round_to(from, static_cast<float16*>(item.copy) + begin, count);
  }
}

// Of the float32 numbers that a bfloat16 parameter and its lower halves are.
inline void copy_joined(const Item& item, int64_t begin, int64_t end) {
  constexpr int64_t length = 512;
  alignas(64) float joint[length];
  const bfloat16* const hi = static_cast<const bfloat16*>(item.arrays[0]);
  const int16_t* const lo = static_cast<const int16_t*>(item.packing->master_data);
  for (int64_t i = begin; i < end; i += length) {
    const int64_t count = end - i < length ? end - i : length;
    for (int64_t k = 0; k < count; ++k) joint[k] = joined(hi[i + k], lo[i + k]);
    copy_from(joint, item, i, count);
  }
}

// Elements [begin, end), as the step has left them: of what stands behind a parameter, if that is
// more than it holds.
[[maybe_unused]] void copy_param(const Item& item, int64_t begin, int64_t end) {
  const Master master = item.packing == nullptr ? Master::none : item.packing->master;
  if (master == Master::low_half) return copy_joined(item, begin, end);
  const bool is_whole = master == Master::whole;
  const void* const from = is_whole ? item.packing->master_data : item.arrays[0];
  const auto copy = [&](const auto* typed) { copy_from(typed + begin, item, begin, end - begin); };
  switch (is_whole ? DType::float32 : item.dtypes[0]) {
    case DType::float64:
      return copy(static_cast<const double*>(from));
    case DType::bfloat16:
      return copy(static_cast<const bfloat16*>(from));
    case DType::float16:
      return copy(static_cast<const float16*>(from));
    default:
      return copy(static_cast<const float*>(from));
  }
}

FASTOPT_TARGET_END
