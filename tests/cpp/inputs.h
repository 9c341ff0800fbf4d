// Inputs that tests/installed/test_kernel_hashes.py makes alike, and the hash of results.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "numeric/dither.h"
#include "numeric/half.h"

namespace fastopt_test {

// SplitMix64's output function: the inputs are its values at consecutive integers.
inline uint64_t mix(uint64_t x) {
  x = (x + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Numbers from 2^-20 to 2^20 of either sign; one in 64 is 0, denormal, infinite or NaN.
// States are squares and averages of squares: not negative.
template <class T>
T input(uint64_t array, uint64_t i, bool negative) {
  constexpr bool is_float = sizeof(T) == 4;
  using Bits = std::conditional_t<is_float, uint32_t, uint64_t>;
  constexpr int mantissa = is_float ? 23 : 52, bias = is_float ? 127 : 1023;
  const uint64_t h = mix(array << 32 | i);
  Bits exponent = static_cast<Bits>(bias - 20 + (h >> 6 & 0xff) % 41);
  Bits fraction = static_cast<Bits>(h >> 12) & ((Bits{1} << mantissa) - 1);
  switch (h % 256) {
    case 0:
      exponent = fraction = 0;
      break;  // zero
    case 1:
      exponent = 0;
      break;  // denormal
    case 2:
      exponent = 2 * bias + 1, fraction = 0;
      break;  // infinity
    case 3:
      exponent = 2 * bias + 1, fraction |= 1;
      break;  // NaN
  }
  const Bits sign = negative ? static_cast<Bits>(h >> 5 & 1) << (sizeof(T) * 8 - 1) : 0;
  const Bits bits = sign | exponent << mantissa | fraction;
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A number as an array of this type stores it, and what it is computed in: exact.
template <class T>
T stored(float x) {
  if constexpr (std::is_same_v<T, fastopt::host::bfloat16>) {
    return fastopt::host::to_bfloat16(x);
  } else if constexpr (std::is_same_v<T, fastopt::host::float16>) {
    return fastopt::host::to_float16(x);
  } else {
    return x;
  }
}

template <class T>
auto computed(T x) {
  if constexpr (sizeof(T) == 2) {
    return fastopt::host::to_float(x);
  } else {
    return x;
  }
}

// As above, but for 1 in the place of infinities and NaNs.
template <class T>
T finite_input(uint64_t array, uint64_t i) {
  const T x = input<T>(array, i, true);
  return std::isfinite(x) ? x : T(1);
}

// Those of 16 bits are the rounded ones of float.
template <class T>
T input_of(uint64_t array, uint64_t i, bool negative) {
  if constexpr (sizeof(T) == 8) {
    return input<double>(array, i, negative);
  } else {
    return stored<T>(input<float>(array, i, negative));
  }
}

inline void fill(fastopt::HalfDither& dither, double step) {
  for (uint32_t i = 0; i < fastopt::dither_size; ++i) {
    dither.draws[i] = fastopt::host::half_dither_entry(step, i);
  }
}

// FNV-1a, whose first value is `hash_start`.
constexpr uint64_t hash_start = 0xcbf29ce484222325u;
inline uint64_t hash_word(uint64_t h, uint64_t word) { return (h ^ word) * 0x100000001b3u; }

// Over the bits as 64-bit words; every NaN counts as one.
template <class T>
uint64_t hash(uint64_t h, const T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint64_t word = 0;
    std::memcpy(&word, values + i, sizeof(T));
    if (values[i] != values[i]) word = ~uint64_t{0};
    h = hash_word(h, word);
  }
  return h;
}

}  // namespace fastopt_test
