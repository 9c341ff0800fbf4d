// AVX2 with F16C: what simd/vec.h asks for, in 256 bits. A comparison gives a vector of all-ones
// and all-zeros lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "numeric/code8.h"
#include "numeric/half.h"
#include "numeric/split.h"
#include "simd/lanes.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec;

template <class Value>
FASTOPT_HOST_DEVICE Value unfolded(Value v) {
  return v;
}

FASTOPT_HOST_DEVICE __m256 widen(bfloat16, __m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
FASTOPT_HOST_DEVICE __m256 widen(float16, __m128i x) { return _mm256_cvtph_ps(x); }

FASTOPT_HOST_DEVICE __m128i narrow(bfloat16, __m256 x) {
  const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i halves = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
FASTOPT_HOST_DEVICE __m128i narrow(float16, __m256 x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// By draws in the lower halves of 32-bit lanes: the lanes of to_bfloat16 and to_float16.
FASTOPT_HOST_DEVICE __m128i narrow(bfloat16, __m256 x, __m256i draws) {
  const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, draws), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i halves = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
FASTOPT_HOST_DEVICE __m128i narrow(float16, __m256 x, __m256i draws) {
  const __m256i bits = _mm256_castps_si256(x), part = _mm256_srli_epi32(draws, 3);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256 multiple = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p24f));
  const __m256 below = _mm256_mul_ps(_mm256_cvtepi32_ps(part), _mm256_set1_ps(0x1p-13f));
  const __m256i small = _mm256_cvttps_epi32(_mm256_add_ps(multiple, below));
  const __m256i sum =
      _mm256_sub_epi32(_mm256_add_epi32(magnitude, part), _mm256_set1_epi32(0x38000000));
  __m256i half = _mm256_min_epu32(_mm256_srli_epi32(sum, 13), _mm256_set1_epi32(0x7c00));
  const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), magnitude);
  half = _mm256_blendv_epi8(half, small, is_small);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  half = _mm256_blendv_epi8(half, _mm256_set1_epi32(0x7e00), nan);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x8000));
  const __m256i halves = _mm256_or_si256(half, sign);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

FASTOPT_HOST_DEVICE __m256i four_bytes(const unsigned char* from) {  // in every 32-bit lane
  int bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

// Lane i of a mask for the first `count` of 8 (or 4) lanes is entry i, counted from 8 - count.
alignas(32) constexpr int32_t first_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                 0,  0,  0,  0,  0,  0,  0,  0};

template <>
struct Vec<float> {
  struct Mask {
    __m256 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {_mm256_or_ps(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 8;
  __m256 value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm256_setzero_ps()) {}
  FASTOPT_HOST_DEVICE Vec(__m256 x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(float x) : value(_mm256_set1_ps(x)) {}

  FASTOPT_HOST_DEVICE static __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_lanes + 8 - count));
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return _mm256_loadu_ps(from); }
  FASTOPT_HOST_DEVICE void store(float* to) const { _mm256_storeu_ps(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm256_maskload_ps(from, first(count));
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    _mm256_maskstore_ps(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE void stream(float* to) const { _mm256_stream_ps(to, value); }

  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load(const Half* from) {
    return widen(Half{}, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Half* to) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow(Half{}, value));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load_first(const Half* from, int count) {
    return load_lanes<Vec>(from, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Half* to, int count) const {
    store_lanes(*this, to, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Drawn<Half>* to) const {
    const __m128i draws = _mm_loadu_si128(reinterpret_cast<const __m128i*>(to->draws));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to->to),
                     narrow(Half{}, value, _mm256_cvtepu16_epi32(draws)));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Drawn<Half>* to, int count) const {
    store_lanes(*this, to, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void stream(Half* to) const {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), narrow(Half{}, value));
  }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    const __m256i places =
        _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), i % 32);
    const __m256i placed = _mm256_and_si256(four_bytes(bits + i / 32 * 4), places);
    return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(placed, places))};
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm256_xor_ps(a.value, _mm256_set1_ps(-0.0f));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm256_blendv_ps(b.value, a.value, m.bits);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) { return _mm256_and_ps(m.bits, a.value); }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm256_sqrt_ps(a.value); }
};

template <>
struct Vec<double> {
  struct Mask {
    __m256d bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {_mm256_or_pd(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 4;
  __m256d value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm256_setzero_pd()) {}
  FASTOPT_HOST_DEVICE Vec(__m256d x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(double x) : value(_mm256_set1_pd(x)) {}

  FASTOPT_HOST_DEVICE static __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_lanes + 8 - 2 * count));
  }
  FASTOPT_HOST_DEVICE static Vec load(const double* from) { return _mm256_loadu_pd(from); }
  FASTOPT_HOST_DEVICE void store(double* to) const { _mm256_storeu_pd(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const double* from, int count) {
    return _mm256_maskload_pd(from, first(count));
  }
  FASTOPT_HOST_DEVICE void store_first(double* to, int count) const {
    _mm256_maskstore_pd(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE void stream(double* to) const { _mm256_stream_pd(to, value); }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    const __m256i places = _mm256_slli_epi64(_mm256_setr_epi64x(1, 2, 4, 8), i % 32);
    const __m256i placed = _mm256_and_si256(four_bytes(bits + i / 32 * 4), places);
    return {_mm256_castsi256_pd(_mm256_cmpeq_epi64(placed, places))};
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) {
    return _mm256_cvtps_pd(_mm_loadu_ps(from));
  }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    const auto* mask = reinterpret_cast<const __m128i*>(first_lanes + 8 - count);
    return _mm256_cvtps_pd(_mm_maskload_ps(from, _mm_loadu_si128(mask)));
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm256_add_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm256_sub_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm256_mul_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm256_div_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm256_xor_pd(a.value, _mm256_set1_pd(-0.0));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm256_blendv_pd(b.value, a.value, m.bits);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) { return _mm256_and_pd(m.bits, a.value); }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm256_sqrt_pd(a.value); }
};

struct BfloatPairs {
  static constexpr bool loads_kept = true;
  static constexpr int count = 16;
  Vec<float> even, odd;

  FASTOPT_HOST_DEVICE static BfloatPairs load_kept(const bfloat16* from,
                                                   const unsigned char* bits) {
    const __m256i places =
        _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12,
                          1 << 13, 1 << 14, static_cast<int16_t>(1u << 15));
    int16_t both;
    __builtin_memcpy(&both, bits, sizeof both);
    const __m256i placed = _mm256_and_si256(_mm256_set1_epi16(both), places);
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return spread(_mm256_and_si256(_mm256_cmpeq_epi16(placed, places), x));
  }
  FASTOPT_HOST_DEVICE static BfloatPairs load(const bfloat16* from) {
    return spread(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), joined());
  }
  FASTOPT_HOST_DEVICE void stream(bfloat16* to) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), joined());
  }
  FASTOPT_HOST_DEVICE static void store_in_order(Vec<float> first, Vec<float> second,
                                                 bfloat16* to) {
    const __m256i low = _mm256_srli_epi32(rounded(first.value), 16);
    const __m256i both = _mm256_packus_epi32(low, _mm256_srli_epi32(rounded(second.value), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_permute4x64_epi64(both, _MM_SHUFFLE(3, 1, 2, 0)));
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to, const uint16_t* draws) const {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws));
    const __m256i lower = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
    const __m256i first = _mm256_add_epi32(_mm256_castps_si256(even.value), lower);
    const __m256i second =
        _mm256_add_epi32(_mm256_castps_si256(odd.value), _mm256_srli_epi32(both, 16));
    const __m256i low = _mm256_srli_epi32(first, 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_blend_epi16(low, second, 0xAA));
  }

 private:
  FASTOPT_HOST_DEVICE static BfloatPairs spread(__m256i x) {
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(x, upper))};
  }
  FASTOPT_HOST_DEVICE static __m256i rounded(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }
  FASTOPT_HOST_DEVICE __m256i joined() const {
    const __m256i low = _mm256_srli_epi32(rounded(even.value), 16);
    return _mm256_blend_epi16(low, rounded(odd.value), 0xAA);
  }
};

// Words of 32 bits whose upper halves are 0, in order.
FASTOPT_HOST_DEVICE void store_halves(__m256i first, __m256i second, void* to) {
  const __m256i both = _mm256_packus_epi32(first, second);
  _mm256_storeu_si256(static_cast<__m256i*>(to),
                      _mm256_permute4x64_epi64(both, _MM_SHUFFLE(3, 1, 2, 0)));
}

// The upper halves. Nothing is added to a NaN: arithmetic has left it a quiet one.
FASTOPT_HOST_DEVICE __m256i rounded(__m256 x, __m256i draws) {
  const __m256i ordered = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q));
  const __m256i added = _mm256_and_si256(ordered, draws);
  return _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(x), added), 16);
}
FASTOPT_HOST_DEVICE __m256i rounded(__m256 x) {
  const __m256i odd = _mm256_srli_epi32(_mm256_castps_si256(x), 16);
  return rounded(
      x, _mm256_add_epi32(_mm256_and_si256(odd, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff)));
}

FASTOPT_HOST_DEVICE void store_both(Vec<float> first, Vec<float> second, bfloat16* to) {
  store_halves(rounded(first.value), rounded(second.value), to);
}
FASTOPT_HOST_DEVICE void store_both(Vec<float> first, Vec<float> second, bfloat16* to,
                                    const uint16_t* draws) {
  const auto widened = [draws](int i) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(draws + i)));
  };
  store_halves(rounded(first.value, widened(0)), rounded(second.value, widened(8)), to);
}

FASTOPT_HOST_DEVICE void load_split(const Split& from, Vec<float>& first, Vec<float>& second) {
  const auto joined = [&from](int i) -> __m256 {
    const auto eight = [i](const auto* at) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i));
    };
    const __m256i upper = _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight(from.hi)), 16);
    const __m256 x =
        _mm256_castsi256_ps(_mm256_add_epi32(upper, _mm256_cvtepi16_epi32(eight(from.lo))));
    return _mm256_blendv_ps(x, _mm256_castsi256_ps(upper), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  };
  first = joined(0);
  second = joined(8);
}
FASTOPT_HOST_DEVICE void store_split(Vec<float> first, Vec<float> second, const Split& to) {
  const auto bits_of = [](Vec<float> x) {
    const __m256 canonical = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    const __m256 nan = _mm256_cmp_ps(x.value, x.value, _CMP_UNORD_Q);
    return _mm256_castps_si256(_mm256_blendv_ps(x.value, canonical, nan));
  };
  const __m256i a = bits_of(first), b = bits_of(second);
  const __m256i half = _mm256_set1_epi32(0x8000), lower = _mm256_set1_epi32(0xffff);
  store_halves(_mm256_srli_epi32(_mm256_add_epi32(a, half), 16),
               _mm256_srli_epi32(_mm256_add_epi32(b, half), 16), to.hi);
  store_halves(_mm256_and_si256(a, lower), _mm256_and_si256(b, lower), to.lo);
}

FASTOPT_HOST_DEVICE void finish_streaming() { _mm_sfence(); }

struct Words64 {
  static constexpr int lanes = 4, lockstep = 4;
  __m256i value;

  Words64() = default;
  FASTOPT_HOST_DEVICE Words64(__m256i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words64(uint64_t x) : value(_mm256_set1_epi64x(static_cast<int64_t>(x))) {}
  FASTOPT_HOST_DEVICE static Words64 count_from(uint64_t first) {
    return _mm256_add_epi64(Words64(first).value, _mm256_setr_epi64x(0, 1, 2, 3));
  }
  FASTOPT_HOST_DEVICE static Words64 threshold(uint32_t draw) {  // for <= instead of <
    return _mm256_set1_epi16(static_cast<int16_t>(draw - 1));
  }

  friend FASTOPT_HOST_DEVICE Words64 times(Words64 a, uint32_t b) {
    return _mm256_mul_epu32(a.value, _mm256_set1_epi64x(b));
  }
  friend FASTOPT_HOST_DEVICE Words64 high(Words64 a) { return _mm256_shuffle_epi32(a.value, 0xF5); }
  friend FASTOPT_HOST_DEVICE Words64 operator^(Words64 a, Words64 b) {
    return _mm256_xor_si256(a.value, b.value);
  }

  friend FASTOPT_HOST_DEVICE Words64 both_words(Words64 product, Words64 other, Words64 key) {
    const __m256i swapped = _mm256_shuffle_epi32(product.value, 0xB1);
    const __m256i lower = _mm256_blend_epi32(_mm256_setzero_si256(), (other ^ key).value, 0x55);
    return _mm256_xor_si256(swapped, lower);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Words64 first, Words64 second, uint16_t* to) {
    const __m128i turn = _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
    const auto store = [&](__m256i words, uint16_t* to, uint16_t* third) {
      const __m256i turned = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(turn));
      const __m256i lower = _mm256_permute2x128_si256(words, turned, 0x20);
      const __m256i upper = _mm256_permute2x128_si256(words, turned, 0x31);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), lower);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(third), upper);
    };
    store(_mm256_unpacklo_epi64(first.value, second.value), to, to + 32);  // blocks 0 and 2
    store(_mm256_unpackhi_epi64(first.value, second.value), to + 16, to + 48);
  }

  FASTOPT_HOST_DEVICE static void store_kept(Words64 first, Words64 second, Words64 threshold,
                                             unsigned char* bits) {
    const auto kept = [&](__m256i draws) {
      return _mm256_cmpeq_epi16(_mm256_min_epu16(draws, threshold.value), draws);
    };
    const __m256i even = kept(_mm256_unpacklo_epi64(first.value, second.value));  // blocks 0 and 2
    const __m256i odd = kept(_mm256_unpackhi_epi64(first.value, second.value));   // blocks 1 and 3
    const int all = _mm256_movemask_epi8(_mm256_packs_epi16(even, odd));
    __builtin_memcpy(bits, &all, sizeof all);
  }
};

struct Words32 {
  __m256i value;

  Words32() = default;
  FASTOPT_HOST_DEVICE Words32(__m256i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words32(uint32_t x) : value(_mm256_set1_epi32(static_cast<int>(x))) {}
  FASTOPT_HOST_DEVICE static Words32 load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const int8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }

  friend FASTOPT_HOST_DEVICE Words32 operator&(Words32 a, Words32 b) {
    return _mm256_and_si256(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator|(Words32 a, Words32 b) {
    return _mm256_or_si256(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator+(Words32 a, Words32 b) {
    return _mm256_add_epi32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 with_bits(Words32 a, Words32 of_b, Words32 b) {
    return a | (of_b & b);
  }
  friend FASTOPT_HOST_DEVICE Words32 larger(Words32 a, Words32 b) {
    return _mm256_max_epu32(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const {
    uint32_t lane[8], most = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane), value);
    for (const uint32_t x : lane) most = larger(most, x);
    return most;
  }

  // The instruction works on each 128 bits apart: they hold 4 codes of `a`, 4 of `b`, and both
  // again.
  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words32 a, Words32 b, uint8_t* to) {
    constexpr int shift = CodeOf<coding>::shift;
    __m256i halves =
        _mm256_packus_epi32(_mm256_srli_epi32(a.value, shift), _mm256_srli_epi32(b.value, shift));
    if constexpr (!CodeOf<coding>::is_root) {  // the upper byte holds 16 for a sign: 8 of it are
                                               // 128
      halves = _mm256_maddubs_epi16(halves, _mm256_set1_epi16(0x0801));
    }
    const __m256i codes = _mm256_packus_epi16(halves, halves);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(codes, order)));
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a) {
  return _mm256_slli_epi32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a, Words32 bits) {
  return _mm256_sllv_epi32(a.value, bits.value);
}
FASTOPT_HOST_DEVICE Words32 bits_of(Vec<float> x) { return _mm256_castps_si256(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words32 a) { return _mm256_castsi256_ps(a.value); }

FASTOPT_TARGET_END
