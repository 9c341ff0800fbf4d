// Two vectors of floats that are stored as bfloat16, one from the even elements and one from the
// odd.
//
// A bfloat16 is the upper half of a float, so one load gives both by a shift and a mask, and one
// store takes both: half the work of widening and narrowing in order. To a rule, which never moves
// elements between lanes, a Pair is a vector like any other.
#pragma once

#include <stdint.h>

#include "numeric/storage.h"
#include "simd/lanes.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

#if defined(FASTOPT_BFLOAT_PAIRS)

FASTOPT_HOST_DEVICE void split(const bfloat16* from, Vec<float>& even, Vec<float>& odd) {
  const BfloatPairs pairs = BfloatPairs::load(from);
  even = pairs.even;
  odd = pairs.odd;
}

FASTOPT_HOST_DEVICE void merge(Vec<float> even, Vec<float> odd, bfloat16* to) {
  BfloatPairs{even, odd}.store(to);
}

FASTOPT_HOST_DEVICE void store_in_order(Vec<float> first, Vec<float> second, bfloat16* to) {
  BfloatPairs::store_in_order(first, second, to);
}

#else

FASTOPT_HOST_DEVICE void store_in_order(Vec<float> first, Vec<float> second, bfloat16* to) {
  first.store(to);
  second.store(to + Vec<float>::lanes);
}

#endif

// Draws lie like the elements: an even one's in the lower half of a lane, an odd one's in the
// upper. No number needs care: what is added to an infinity or a NaN with nothing below its upper
// half does not carry.
#if defined(FASTOPT_SIMD_AVX512)
FASTOPT_HOST_DEVICE void merge_randomly(Vec<float> even, Vec<float> odd, const uint16_t* draws,
                                        bfloat16* to) {
  const __m512i both = _mm512_loadu_si512(draws), lower = _mm512_set1_epi32(0xffff);
  const __m512i first =
      _mm512_add_epi32(_mm512_castps_si512(even.value), _mm512_and_si512(both, lower));
  const __m512i second =
      _mm512_add_epi32(_mm512_castps_si512(odd.value), _mm512_srli_epi32(both, 16));
  const __m512i low = _mm512_srli_epi32(first, 16);
  _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAA, low, second));
}
#elif defined(FASTOPT_SIMD_AVX2)
FASTOPT_HOST_DEVICE void merge_randomly(Vec<float> even, Vec<float> odd, const uint16_t* draws,
                                        bfloat16* to) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws));
  const __m256i lower = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
  const __m256i first = _mm256_add_epi32(_mm256_castps_si256(even.value), lower);
  const __m256i second =
      _mm256_add_epi32(_mm256_castps_si256(odd.value), _mm256_srli_epi32(both, 16));
  const __m256i low = _mm256_srli_epi32(first, 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_blend_epi16(low, second, 0xAA));
}
#elif defined(FASTOPT_SIMD_NEON)
FASTOPT_HOST_DEVICE void merge_randomly(Vec<float> even, Vec<float> odd, const uint16_t* draws,
                                        bfloat16* to) {
  const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(draws));
  const uint32x4_t lower = vandq_u32(both, vdupq_n_u32(0xffff));
  const uint32x4_t first = vaddq_u32(vreinterpretq_u32_f32(even.value), lower);
  const uint32x4_t second = vaddq_u32(vreinterpretq_u32_f32(odd.value), vshrq_n_u32(both, 16));
  vst1q_u16(reinterpret_cast<uint16_t*>(to), vreinterpretq_u16_u32(vsriq_n_u32(second, first, 16)));
}
#else
FASTOPT_HOST_DEVICE void merge_randomly(Vec<float> even, Vec<float> odd, const uint16_t* draws,
                                        bfloat16* to) {
  to[0] = {static_cast<uint16_t>((bits_of(even.value) + draws[0]) >> 16)};
  to[1] = {static_cast<uint16_t>((bits_of(odd.value) + draws[1]) >> 16)};
}
#endif

#if defined(FASTOPT_SIMD_NEON)

FASTOPT_HOST_DEVICE void split(const bfloat16* from, Vec<float>& even, Vec<float>& odd) {
  const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(from)));
  even = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
  odd = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
}

FASTOPT_HOST_DEVICE void merge(Vec<float> even, Vec<float> odd, bfloat16* to) {
  const auto rounded = [](Vec<float> x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x.value);
    const uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last);
  };
  const uint32x4_t both = vsriq_n_u32(rounded(odd), rounded(even), 16);
  vst1q_u16(reinterpret_cast<uint16_t*>(to), vreinterpretq_u16_u32(both));
}

#elif !defined(FASTOPT_BFLOAT_PAIRS)

FASTOPT_HOST_DEVICE void split(const bfloat16* from, Vec<float>& even, Vec<float>& odd) {
  even = to_float(from[0]);
  odd = to_float(from[1]);
}

FASTOPT_HOST_DEVICE void merge(Vec<float> even, Vec<float> odd, bfloat16* to) {
  to[0] = to_bfloat16(even.value);
  to[1] = to_bfloat16(odd.value);
}

#endif

// Stores round to nearest even, like to_bfloat16, but for NaN ask that its lower half is 0: a carry
// could else make it a number. It is for every NaN that comes of arithmetic on bfloat16 and on
// scalars that are no NaN with a payload; options are never NaN, and the one factor that may be,
// that of the gradient, has none (bindings/step/clip.cpp).
struct Pair {
  struct Mask {
    Vec<float>::Mask even, odd;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {Vec<float>::Mask(a.even | b.even), Vec<float>::Mask(a.odd | b.odd)};
    }
  };
  static constexpr int lanes = 2 * Vec<float>::lanes;
  Vec<float> even, odd;

  Pair() = default;
  FASTOPT_HOST_DEVICE Pair(Vec<float> even, Vec<float> odd) : even(even), odd(odd) {}
  FASTOPT_HOST_DEVICE Pair(float x) : even(x), odd(x) {}

  FASTOPT_HOST_DEVICE static Pair load(const bfloat16* from) {
    Pair pair;
    split(from, pair.even, pair.odd);
    return pair;
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { merge(even, odd, to); }
  FASTOPT_HOST_DEVICE void store(Drawn<bfloat16>* to) const {
    merge_randomly(even, odd, to->draws, to->to);
  }
  FASTOPT_HOST_DEVICE static Pair load_first(const bfloat16* from, int count) {
    return load_lanes<Pair>(from, count);
  }
  FASTOPT_HOST_DEVICE void store_first(bfloat16* to, int count) const {
    store_lanes(*this, to, count);
  }
  FASTOPT_HOST_DEVICE void store_first(Drawn<bfloat16>* to, int count) const {
    store_lanes(*this, to, count);
  }

  friend FASTOPT_HOST_DEVICE Pair operator+(Pair a, Pair b) {
    return {a.even + b.even, a.odd + b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator-(Pair a, Pair b) {
    return {a.even - b.even, a.odd - b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator*(Pair a, Pair b) {
    return {a.even * b.even, a.odd * b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator/(Pair a, Pair b) {
    return {a.even / b.even, a.odd / b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator-(Pair a) { return {-a.even, -a.odd}; }
  friend FASTOPT_HOST_DEVICE Mask operator<(Pair a, Pair b) {
    return {a.even < b.even, a.odd < b.odd};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Pair a, Pair b) {
    return {a.even >= b.even, a.odd >= b.odd};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Pair a, Pair b) {
    return {a.even != b.even, a.odd != b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair select(Mask m, Pair a, Pair b) {
    return {select(m.even, a.even, b.even), select(m.odd, a.odd, b.odd)};
  }
  friend FASTOPT_HOST_DEVICE Pair sqrt(Pair a) { return {sqrt(a.even), sqrt(a.odd)}; }
};

FASTOPT_TARGET_END
