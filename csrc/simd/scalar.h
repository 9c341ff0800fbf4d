// The baseline instruction set, and CUDA: what simd/vec.h asks for with one lane, in plain
// arithmetic.
//
// Vec is a wrapper rather than a raw float: <cmath>'s overloads would promote to double and lose
// the bits.
#pragma once

#include <stdint.h>

#include "numeric/code8.h"
#include "numeric/half.h"
#include "numeric/split.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec {
  using Mask = bool;
  static constexpr int lanes = 1;
  T value;

  FASTOPT_HOST_DEVICE Vec() : value(0) {}
  FASTOPT_HOST_DEVICE Vec(T x) : value(x) {}

  template <class From>
  FASTOPT_HOST_DEVICE static Vec load(const From* from) {
    return static_cast<T>(*from);
  }
  FASTOPT_HOST_DEVICE static Vec load(const bfloat16* from) { return to_float(*from); }
  FASTOPT_HOST_DEVICE static Vec load(const float16* from) { return to_float(*from); }
  FASTOPT_HOST_DEVICE void store(T* to) const { *to = value; }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { *to = to_bfloat16(value); }
  FASTOPT_HOST_DEVICE void store(float16* to) const { *to = to_float16(value); }
  FASTOPT_HOST_DEVICE void store(Drawn<bfloat16>* to) const {
    *to->to = to_bfloat16(value, *to->draws);
  }
  FASTOPT_HOST_DEVICE void store(Drawn<float16>* to) const {
    *to->to = to_float16(value, *to->draws);
  }
  template <class From>
  FASTOPT_HOST_DEVICE static Vec load_first(const From* from, int) {
    return load(from);
  }
  template <class To>
  FASTOPT_HOST_DEVICE void store_first(To* to, int) const {
    store(to);
  }
  template <class To>
  FASTOPT_HOST_DEVICE void stream(To* to) const {
    store(to);
  }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    return (bits[i / 8] >> i % 8 & 1) != 0;
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return a.value + b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return a.value - b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return a.value * b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return a.value / b.value; }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) { return -a.value; }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) { return a.value < b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) { return a.value >= b.value; }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) { return a.value != b.value; }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) { return m ? a : b; }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) { return m ? a : Vec(T(0)); }
};

FASTOPT_HOST_DEVICE Vec<float> sqrt(Vec<float> a) { return __builtin_sqrtf(a.value); }
FASTOPT_HOST_DEVICE Vec<double> sqrt(Vec<double> a) { return __builtin_sqrt(a.value); }

// As in rules/rule.h, by two sums, since x + (-0) is x whatever x is: a choice for each element
// would take longer, where none is moved out of the loop.
template <class T, class Meanwhile>
FASTOPT_HOST_DEVICE Vec<T> denominator(Vec<T> v, T eps, bool eps_inside_sqrt, Meanwhile meanwhile) {
  const T within = eps_inside_sqrt ? eps : T(-0.0), behind = eps_inside_sqrt ? T(-0.0) : eps;
  const Vec<T> root = sqrt(v + within);
  meanwhile();
  return root + behind;
}

template <class Value>
FASTOPT_HOST_DEVICE Value unfolded(Value v) {
  return v;
}

struct BfloatPairs {
  static constexpr bool loads_kept = false;
  Vec<float> even, odd;

  FASTOPT_HOST_DEVICE static BfloatPairs load(const bfloat16* from) {
    return {to_float(from[0]), to_float(from[1])};
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { store_in_order(even, odd, to); }
  FASTOPT_HOST_DEVICE static void store_in_order(Vec<float> first, Vec<float> second,
                                                 bfloat16* to) {
    to[0] = to_bfloat16(first.value);
    to[1] = to_bfloat16(second.value);
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to, const uint16_t* draws) const {
    to[0] = {static_cast<uint16_t>((bits_of(even.value) + draws[0]) >> 16)};
    to[1] = {static_cast<uint16_t>((bits_of(odd.value) + draws[1]) >> 16)};
  }
};

FASTOPT_HOST_DEVICE void load_split(const Split& from, Vec<float>& first, Vec<float>& second) {
  first = joined(from.hi[0], from.lo[0]);
  second = joined(from.hi[1], from.lo[1]);
}
FASTOPT_HOST_DEVICE void store_split(Vec<float> first, Vec<float> second, const Split& to) {
  to.hi[0] = split_float(first.value, to.lo[0]);
  to.hi[1] = split_float(second.value, to.lo[1]);
}

FASTOPT_HOST_DEVICE void finish_streaming() {}

struct Words64 {
  static constexpr int lanes = 1, lockstep = 2;
  uint64_t value;

  Words64() = default;
  FASTOPT_HOST_DEVICE Words64(uint64_t x) : value(x) {}
  FASTOPT_HOST_DEVICE static Words64 count_from(uint64_t first) { return first; }
  FASTOPT_HOST_DEVICE static Words64 threshold(uint32_t draw) { return draw; }

  friend FASTOPT_HOST_DEVICE Words64 times(Words64 a, uint32_t b) { return (a.value & ~0u) * b; }
  friend FASTOPT_HOST_DEVICE Words64 high(Words64 a) { return a.value >> 32; }
  friend FASTOPT_HOST_DEVICE Words64 operator^(Words64 a, Words64 b) { return a.value ^ b.value; }

  friend FASTOPT_HOST_DEVICE Words64 both_words(Words64 product, Words64 other, Words64 key) {
    const Words64 first = high(product) ^ other ^ key;
    return product.value << 32 | (first.value & ~0u);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Words64 first, Words64 second, uint16_t* to) {
    const auto turned = [](uint64_t two) {  // each half by 8 bits
      return (two << 8 & 0xffffff00ffffff00u) | (two >> 24 & 0x000000ff000000ffu);
    };
    const uint64_t draws[] = {first.value, second.value, turned(first.value), turned(second.value)};
    __builtin_memcpy(to, draws, sizeof draws);
  }

  FASTOPT_HOST_DEVICE static void store_kept(Words64 first, Words64 second, Words64 threshold,
                                             unsigned char* bits) {
    unsigned kept = 0;
    for (int j = 0; j < 4; ++j) {
      kept |= unsigned{(first.value >> 16 * j & 0xffffu) < threshold.value} << j;
      kept |= unsigned{(second.value >> 16 * j & 0xffffu) < threshold.value} << (4 + j);
    }
    *bits = static_cast<unsigned char>(kept);
  }
};

struct Words32 {
  uint32_t value;

  Words32() = default;
  FASTOPT_HOST_DEVICE Words32(uint32_t x) : value(x) {}
  FASTOPT_HOST_DEVICE static Words32 load(const void* from) {
    Words32 words;
    __builtin_memcpy(&words.value, from, sizeof words.value);
    return words;
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const uint8_t* from) { return *from; }
  FASTOPT_HOST_DEVICE static Words32 extended(const int8_t* from) {
    return static_cast<uint32_t>(int{*from});
  }

  friend FASTOPT_HOST_DEVICE Words32 operator&(Words32 a, Words32 b) { return a.value & b.value; }
  friend FASTOPT_HOST_DEVICE Words32 operator|(Words32 a, Words32 b) { return a.value | b.value; }
  friend FASTOPT_HOST_DEVICE Words32 operator+(Words32 a, Words32 b) { return a.value + b.value; }
  friend FASTOPT_HOST_DEVICE Words32 with_bits(Words32 a, Words32 of_b, Words32 b) {
    return a | (of_b & b);
  }
  friend FASTOPT_HOST_DEVICE Words32 larger(Words32 a, Words32 b) {
    return larger(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return value; }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words32 a, Words32 b, uint8_t* to) {
    to[0] = code_of<coding>(a.value);
    to[1] = code_of<coding>(b.value);
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a) {
  return a.value << bits;
}
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a, Words32 bits) { return a.value << bits.value; }
FASTOPT_HOST_DEVICE Words32 bits_of(Vec<float> x) { return bits_of(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words32 a) { return float_of(a.value); }

FASTOPT_TARGET_END
