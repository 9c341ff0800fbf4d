// The loops of cpu/vectors.h.
//
// A product of two floats is exact in double, so a sum of float32 products has double's error only.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/sum.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class V>
FASTOPT_HOST_DEVICE V magnitude(V v) {
  return select(v < V(0), -v, v);
}

// load(i, act): act on one vector after another, the last one perhaps in part.
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

// Sums of up to `sums` values per element at once: value(s, i, load) is the s-th of the vector at
// element i. The lanes of cpu/sum.h are taken a few vectors at a time, so that all sums stay in
// registers; a chunk is then walked several times, each time over other cache lines of it.
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
      const int rest = static_cast<int>(count - i < V::lanes ? count - i : V::lanes);
      add(k, i, [rest](const auto* from) {
        return rest == V::lanes ? V::load(from) : V::load_first(from, rest);
      });
    }
    for (int s = 0; s < sums; ++s) {
      for (int64_t k = 0; k < at_once; ++k) total[s][k].store(lane[s] + (first + k) * V::lanes);
    }
  }
  for (int s = 0; s < sums; ++s) out[s] = add_lanes(lane[s]);
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
  V largest;
  each_vector<V>(count, [&](int64_t i, auto load, auto) {
    const V x = magnitude(load(a + i));
    largest = select((x < largest) | (largest != largest), largest, x);  // NaN stays
  });
  double lane[V::lanes];
  largest.store(lane);
  out[2] = lane[0];
  for (int k = 1; k < V::lanes; ++k) {
    if (!(lane[k] < out[2]) && out[2] == out[2]) out[2] = lane[k];
  }
  out[2] = out[2] + 0.0;  // of zeros, any one may come out as the largest
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

// The numbers in double: those that are there, or in `buffer`.
FASTOPT_HOST_DEVICE const double* in_double(const double* from, int64_t, double*) { return from; }
FASTOPT_HOST_DEVICE const double* in_double(const float* from, int64_t count, double* buffer) {
  each_vector<Vec<double>>(
      count, [&](int64_t i, auto load, auto store) { store(load(from + i), buffer + i); });
  return buffer;
}

template <class T>
void dots(const void* const* rows, int64_t row_count, int64_t begin, const void* a_data,
          const void* b_data, int64_t count, double* out) {
  constexpr int64_t ahead = 2048;  // bytes; rows are long, and each is left after a chunk of it
  alignas(64) double a_buffer[sum_chunk], b_buffer[sum_chunk];  // widened once for all rows
  const double* a = in_double(static_cast<const T*>(a_data), count, a_buffer);
  const double* b = in_double(static_cast<const T*>(b_data), count, b_buffer);
  for (int64_t r = 0; r < row_count; r += 2) {  // two at a time: a and b are read half as often
    const T* even = static_cast<const T*>(rows[r]) + begin;
    const T* odd = static_cast<const T*>(rows[r + 1]) + begin;
    sum_values<4>(count, out + 2 * r, [&](int s, int64_t i, auto load) {
      const T* row = s < 2 ? even : odd;
      if (s % 2 == 0) __builtin_prefetch(reinterpret_cast<const char*>(row + i) + ahead);
      return load(row + i) * load((s % 2 == 0 ? a : b) + i);
    });
  }
}

FASTOPT_HOST_DEVICE void store_as(const double* from, double* to, int64_t count) {
  __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(double));
}
FASTOPT_HOST_DEVICE void store_as(const double* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

template <class T>
void combine(const void* const* rows, const double* weights, int64_t row_count, int64_t begin,
             void* out, int64_t count) {
  using V = Vec<double>;
  constexpr int64_t ahead = 2048;  // bytes
  alignas(64) double sum[sum_chunk];
  const auto row_at = [=](int64_t r) { return static_cast<const T*>(rows[r]) + begin; };
  const auto fetch = [](const T* at) {
    __builtin_prefetch(reinterpret_cast<const char*>(at) + ahead);
  };
  const T* first = row_at(0);
  const V weight(weights[0]);
  each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    fetch(first + i);
    store(weight * load(first + i), sum + i);
  });
  for (int64_t r = 1; r < row_count; r += 2) {  // two at a time: the sum is read half as often
    const T *even = row_at(r), *odd = row_at(r + 1);
    const V even_weight(weights[r]), odd_weight(weights[r + 1]);
    each_vector<V>(count, [&](int64_t i, auto load, auto store) {
      fetch(even + i);
      fetch(odd + i);
      const V with_even = load(sum + i) + even_weight * load(even + i);
      store(with_even + odd_weight * load(odd + i), sum + i);
    });
  }
  store_as(sum, static_cast<T*>(out), count);
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
