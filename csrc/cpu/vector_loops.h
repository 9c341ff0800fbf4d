// The loops of cpu/vectors.h.
//
// A product of two floats is exact in double, so a sum of float32 products has double's error only.
#pragma once

#include <stdint.h>

#include "cpu/each_vector.h"
#include "cpu/kernel.h"
#include "cpu/sum.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class V>
FASTOPT_HOST_DEVICE V magnitude(V v) {
  return select(v < V(0), -v, v);
}

// A vector of which at most `rest` elements, and at least one, are there.
template <class V, class T>
FASTOPT_HOST_DEVICE V load_rest(const T* from, int64_t rest) {
  return rest >= V::lanes ? V::load(from) : V::load_first(from, static_cast<int>(rest));
}

// Sums of up to `sums` values per element at once: value(s, i, load) is the s-th of the vector at
// element i. The lanes of cpu/sum.h are taken a few vectors at a time, so that all sums stay in
// registers; a chunk is then read several times, each time in other cache lines of it.
template <int sums, class Value>
FASTOPT_HOST_DEVICE void sum_values(int64_t count, double* out, Value value) {
  using V = Vec<double>;
  constexpr int64_t vectors = sum_lanes / V::lanes;
  constexpr int64_t most = V::lanes == 8 ? 16 / sums : 8 / sums;  // half of the registers
  constexpr int64_t at_once = V::lanes == 1 ? vectors : vectors < most ? vectors : most;
  double lane[sums][sum_lanes];
  for (int64_t first = 0; first < vectors; first += at_once) {
    V total[sums][at_once];
    const auto add = [&](int64_t k, int64_t i, auto load) {
      for (int s = 0; s < sums; ++s) total[s][k] = total[s][k] + value(s, i, load);
    };
    int64_t i = first * V::lanes;
    for (; i <= count - at_once * V::lanes; i += sum_lanes) {
      for (int64_t k = 0; k < at_once; ++k) {
        add(k, i + k * V::lanes, [](const auto* from) { return V::load(from); });
      }
    }
    for (int64_t k = 0; k < at_once && i < count; ++k, i += V::lanes) {
      const int64_t rest = count - i;
      add(k, i, [rest](const auto* from) { return load_rest<V>(from, rest); });
    }
    for (int s = 0; s < sums; ++s) {
      for (int64_t k = 0; k < at_once; ++k) total[s][k].store(lane[s] + (first + k) * V::lanes);
    }
  }
  for (int s = 0; s < sums; ++s) out[s] = add_lanes(lane[s]);
}

// The largest magnitude, or NaN if an element is: without their signs, the numbers' bits are
// ordered as the numbers are, and NaNs are above them.
template <class Bits, class T>
double largest_of(const T* values, int64_t count) {
  static_assert(sizeof(Bits) == sizeof(T));
  Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, values + i, sizeof(bits));
    bits &= ~Bits{0} >> 1;
    largest = largest < bits ? bits : largest;
  }
  T value;
  __builtin_memcpy(&value, &largest, sizeof(value));
  return static_cast<double>(value);
}
inline double largest_in(const float* values, int64_t count) {
  return largest_of<uint32_t>(values, count);
}
inline double largest_in(const double* values, int64_t count) {
  return largest_of<uint64_t>(values, count);
}

template <class T>
void measure(const void* a_data, const void* b_data, int64_t count, double* out) {
  using V = Vec<double>;
  const T *a = static_cast<const T*>(a_data), *b = static_cast<const T*>(b_data);
  if (b == nullptr) {
    sum_values<1>(count, out, [&](int, int64_t i, auto load) { return magnitude(load(a + i)); });
    out[1] = 0;
  } else {
    sum_values<2>(count, out, [&](int s, int64_t i, auto load) {
      const V x = load(a + i);
      return s == 0 ? magnitude(x) : x * load(b + i);
    });
  }
  out[2] = largest_in(a, count);
}

template <class T>
void pair(const void* grad_data, const void* prev_data, const void* direction_data, double t,
          void* step_data, void* change_data, int64_t count) {
  using V = Vec<T>;
  const T *grad = static_cast<const T*>(grad_data), *prev = static_cast<const T*>(prev_data);
  const T* direction = static_cast<const T*>(direction_data);
  T *step = static_cast<T*>(step_data), *change = static_cast<T*>(change_data);
  const V scale(static_cast<T>(t));
  each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(scale * load(direction + i), step + i);
    store(load(grad + i) - load(prev + i), change + i);
  });
}

// To the second level: rows of a power of two's distance share sets of the first (bench/NOTES.md,
// 25b).
template <class T>
FASTOPT_HOST_DEVICE void fetch(const T* row) {
  __builtin_prefetch(row, 0, 2);
}

// Rows r to r + some - 1, while the rows behind are fetched; after the last come the first again,
// with the next chunk.
template <int some, class T>
FASTOPT_HOST_DEVICE void dots_of(const void* const* rows, int64_t r, int64_t row_count,
                                 int64_t begin, const T* a, const T* b, int64_t count,
                                 double* out) {
  constexpr int64_t further = 8;
  const T *row[some], *next[some];
  for (int64_t k = 0; k < some; ++k) {
    const int64_t n = r + further + k;
    row[k] = static_cast<const T*>(rows[r + k]) + begin;
    next[k] = static_cast<const T*>(rows[n % row_count]) + begin + n / row_count * sum_chunk;
  }
  sum_values<2 * some>(count, out, [&](int s, int64_t i, auto load) {
    if (s % 2 == 0) fetch(next[s / 2] + i);
    return load(row[s / 2] + i) * load((s % 2 == 0 ? a : b) + i);
  });
}

template <class T>
void dots(const void* const* rows, int64_t row_count, int64_t begin, const void* a_data,
          const void* b_data, int64_t count, double* out) {
  // Several at a time: a and b are read less often. More sums would not stay in registers.
  constexpr int64_t at_once = Vec<double>::lanes == 8 ? 4 : 2;
  const T *a = static_cast<const T*>(a_data), *b = static_cast<const T*>(b_data);
  int64_t r = 0;
  for (; r <= row_count - at_once; r += at_once) {
    dots_of<at_once>(rows, r, row_count, begin, a, b, count, out + 2 * r);
  }
  for (; r < row_count; r += 2) dots_of<2>(rows, r, row_count, begin, a, b, count, out + 2 * r);
}

FASTOPT_HOST_DEVICE void store_as(const double* from, double* to, int64_t count) {
  __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(double));
}
FASTOPT_HOST_DEVICE void store_as(const double* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// The sum from element i on, in as many registers as there are vectors.
template <int64_t vectors, class T, class Load>
FASTOPT_HOST_DEVICE void combine_at(const void* const* rows, const double* weights,
                                    int64_t row_count, int64_t i, double* out, Load load) {
  using V = Vec<double>;
  constexpr int64_t count = vectors * V::lanes;
  V sum[vectors];
  for (int64_t r = 0; r < row_count; ++r) {
    const T* row = static_cast<const T*>(rows[r]) + i;
    const V weight(weights[r]);
    for (int64_t k = 0; k < vectors; ++k) {
      const int64_t place = k * V::lanes;
      if (place * sizeof(T) % 64 == 0) fetch(row + 2 * count + place);  // spread: bursts are slower
      const V term = weight * load(row + place);
      sum[k] = r == 0 ? term : sum[k] + term;
    }
  }
  for (int64_t k = 0; k < vectors; ++k) sum[k].store(out + k * V::lanes);
}

template <class T>
void combine(const void* const* rows, const double* weights, int64_t row_count, int64_t begin,
             void* out_data, int64_t count) {
  using V = Vec<double>;
  constexpr int64_t vectors = V::lanes == 8 ? 16 : 8, block = vectors * V::lanes;
  T* out = static_cast<T*>(out_data);
  alignas(64) double sum[block];
  int64_t i = 0;
  for (; i <= count - block; i += block) {
    combine_at<vectors, T>(rows, weights, row_count, begin + i, sum,
                           [](const T* from) { return V::load(from); });
    store_as(sum, out + i, block);
  }
  for (; i < count; i += V::lanes) {
    const int64_t rest = count - i;
    combine_at<1, T>(rows, weights, row_count, begin + i, sum,
                     [rest](const T* from) { return load_rest<V>(from, rest); });
    store_as(sum, out + i, rest < V::lanes ? rest : V::lanes);
  }
}

template <class T>
void move(const void* from_data, const void* direction_data, double t, void* to_data,
          int64_t count) {
  using V = Vec<T>;
  const T *from = static_cast<const T*>(from_data),
          *direction = static_cast<const T*>(direction_data);
  T* to = static_cast<T*>(to_data);
  const V scale(static_cast<T>(t));
  each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(load(from + i) + scale * load(direction + i), to + i);
  });
}

FASTOPT_TARGET_END
