// Sums in double whose bits do not depend on the instruction set or the number of threads.
//
// A chunk of up to sum_chunk elements is added up in 32 lanes, element i in lane i mod 32, and the
// lanes are combined pairwise: 16 and 16, 8 and 8, and so on. 32 lanes run near the speed of a
// plain read on AVX2 and AVX-512; more spill registers on AVX2. The chunks' sums are an array of
// doubles that is added up by the same tree, until one number is left (cpu/norm.cpp).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/pages.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int64_t sum_lanes = 32;

// The lanes of a chunk combined pairwise; they are overwritten.
FASTOPT_HOST_DEVICE double add_lanes(double* lane) {
  for (int64_t half = sum_lanes / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) lane[j] = lane[j] + lane[j + half];
  }
  return lane[0];
}

// A chunk that comes part by part; all parts but the last are whole rounds of the lanes.
template <bool squares>
class LaneSums {
 public:
  // Prefetches so many bytes ahead, if any.
  template <int ahead, class T>
  FASTOPT_HOST_DEVICE void add(const T* x, int64_t count) {
    int64_t i = 0;
    for (; i <= count - sum_lanes; i += sum_lanes) {
      for (size_t line = 0; ahead > 0 && line < sum_lanes * sizeof(T); line += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(x + i) + ahead + line);
      }
      for (int64_t k = 0; k < vectors; ++k) add_to(k, V::load(x + i + k * V::lanes));
    }
    for (int64_t k = 0; i < count; i += V::lanes, ++k) {  // adding 0 to a sum changes nothing
      const int64_t rest = count - i;
      add_to(k, rest >= V::lanes ? V::load(x + i) : V::load_first(x + i, static_cast<int>(rest)));
    }
  }

  FASTOPT_HOST_DEVICE double total() const {
    double lane[sum_lanes];
    for (int64_t k = 0; k < vectors; ++k) sums_[k].store(lane + k * V::lanes);
    return add_lanes(lane);
  }

 private:
  using V = Vec<double>;
  static constexpr int64_t vectors = sum_lanes / V::lanes;

  FASTOPT_HOST_DEVICE void add_to(int64_t k, V v) { sums_[k] = sums_[k] + (squares ? v * v : v); }

  V sums_[vectors];
};

template <class T, bool squares>
double sum_tree(const void* values, int64_t count) {
  const T* const x = static_cast<const T*>(values);
  LaneSums<squares> sums;
  for (int64_t i = 0, stop; i < count; i = stop) {
    stop = page_end(i, count);
    if (is_page_due(i, count)) touch_page(x + i);
    sums.template add<2048>(x + i, stop - i);  // bench/NOTES.md, 12
  }
  return sums.total();
}

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

// The squares of numbers that are stored in 16 bits; at most sum_chunk.
template <class Half>
double sum_tree_of(const void* values, int64_t count) {
  alignas(64) float floats[sum_chunk];
  unpack(static_cast<const Half*>(values), floats, count);
  return sum_tree<float, true>(floats, count);
}

FASTOPT_TARGET_END
