// AVX-512 (F, BW, DQ, VL): what simd/vec.h asks for, in 512 bits. A comparison gives a mask
// register.
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
  asm("" : "+v"(v));
  return v;
}

FASTOPT_HOST_DEVICE __m512 widen(bfloat16, __m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FASTOPT_HOST_DEVICE __m512 widen(float16, __m256i x) { return _mm512_cvtph_ps(x); }

FASTOPT_HOST_DEVICE __m256i narrow(bfloat16, __m512 x) {
  const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
FASTOPT_HOST_DEVICE __m256i narrow(float16, __m512 x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// By draws in the lower halves of 32-bit lanes: the lanes of to_bfloat16 and to_float16.
FASTOPT_HOST_DEVICE __m256i narrow(bfloat16, __m512 x, __m512i draws) {
  const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, draws), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
FASTOPT_HOST_DEVICE __m256i narrow(float16, __m512 x, __m512i draws) {
  const __m512i bits = _mm512_castps_si512(x), part = _mm512_srli_epi32(draws, 3);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512 multiple = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p24f));
  const __m512 below = _mm512_mul_ps(_mm512_cvtepi32_ps(part), _mm512_set1_ps(0x1p-13f));
  const __m512i small = _mm512_cvttps_epi32(_mm512_add_ps(multiple, below));
  const __m512i sum =
      _mm512_sub_epi32(_mm512_add_epi32(magnitude, part), _mm512_set1_epi32(0x38000000));
  __m512i half = _mm512_min_epu32(_mm512_srli_epi32(sum, 13), _mm512_set1_epi32(0x7c00));
  const __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x38800000));
  half = _mm512_mask_mov_epi32(half, is_small, small);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  half = _mm512_mask_mov_epi32(half, nan, _mm512_set1_epi32(0x7e00));
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x8000));
  return _mm512_cvtepi32_epi16(_mm512_or_si512(half, sign));
}

template <>
struct Vec<float> {
  struct Mask {
    __mmask16 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask16>(a.bits | b.bits)};
    }
  };
  static constexpr int lanes = 16;
  __m512 value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm512_setzero_ps()) {}
  FASTOPT_HOST_DEVICE Vec(__m512 x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(float x) : value(_mm512_set1_ps(x)) {}

  FASTOPT_HOST_DEVICE static __mmask16 first(int count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return _mm512_loadu_ps(from); }
  FASTOPT_HOST_DEVICE void store(float* to) const { _mm512_storeu_ps(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm512_maskz_loadu_ps(first(count), from);
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    _mm512_mask_storeu_ps(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE void stream(float* to) const { _mm512_stream_ps(to, value); }

  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load(const Half* from) {
    return widen(Half{}, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Half* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow(Half{}, value));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load_first(const Half* from, int count) {
    return widen(Half{}, _mm256_maskz_loadu_epi16(first(count), from));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Half* to, int count) const {
    _mm256_mask_storeu_epi16(to, first(count), narrow(Half{}, value));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Drawn<Half>* to) const {
    const __m256i draws = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to->draws));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to->to),
                        narrow(Half{}, value, _mm512_cvtepu16_epi32(draws)));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Drawn<Half>* to, int count) const {
    store_lanes(*this, to, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void stream(Half* to) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), narrow(Half{}, value));
  }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    uint16_t lanes_kept;
    __builtin_memcpy(&lanes_kept, bits + i / 8, sizeof lanes_kept);
    return {lanes_kept};
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm512_xor_ps(a.value, _mm512_set1_ps(-0.0f));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm512_mask_blend_ps(m.bits, b.value, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) {
    return _mm512_maskz_mov_ps(m.bits, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm512_sqrt_ps(a.value); }
};

template <>
struct Vec<double> {
  struct Mask {
    __mmask8 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask8>(a.bits | b.bits)};
    }
  };
  static constexpr int lanes = 8;
  __m512d value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm512_setzero_pd()) {}
  FASTOPT_HOST_DEVICE Vec(__m512d x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(double x) : value(_mm512_set1_pd(x)) {}

  FASTOPT_HOST_DEVICE static __mmask8 first(int count) {
    return static_cast<__mmask8>((1u << count) - 1);
  }
  FASTOPT_HOST_DEVICE static Vec load(const double* from) { return _mm512_loadu_pd(from); }
  FASTOPT_HOST_DEVICE void store(double* to) const { _mm512_storeu_pd(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const double* from, int count) {
    return _mm512_maskz_loadu_pd(first(count), from);
  }
  FASTOPT_HOST_DEVICE void store_first(double* to, int count) const {
    _mm512_mask_storeu_pd(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE void stream(double* to) const { _mm512_stream_pd(to, value); }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    return {bits[i / 8]};
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(from));
  }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first(count), from));
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm512_div_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm512_xor_pd(a.value, _mm512_set1_pd(-0.0));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm512_mask_blend_pd(m.bits, b.value, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) {
    return _mm512_maskz_mov_pd(m.bits, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm512_sqrt_pd(a.value); }
};

struct BfloatPairs {
  static constexpr bool loads_kept = true;
  static constexpr int count = 32;
  Vec<float> even, odd;

  FASTOPT_HOST_DEVICE static BfloatPairs load_kept(const bfloat16* from,
                                                   const unsigned char* bits) {
    __mmask32 kept;
    __builtin_memcpy(&kept, bits, sizeof kept);
    return spread(_mm512_maskz_mov_epi16(kept, unfolded(_mm512_loadu_si512(from))));
  }
  FASTOPT_HOST_DEVICE static BfloatPairs load(const bfloat16* from) {
    return spread(_mm512_loadu_si512(from));
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { _mm512_storeu_si512(to, joined()); }
  FASTOPT_HOST_DEVICE void stream(bfloat16* to) const {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), joined());
  }
  // The instruction works on each 128 bits apart.
  FASTOPT_HOST_DEVICE static void store_in_order(Vec<float> first, Vec<float> second,
                                                 bfloat16* to) {
    const __m512i low = _mm512_srli_epi32(rounded(first.value), 16);
    const __m512i both = _mm512_packus_epi32(low, _mm512_srli_epi32(rounded(second.value), 16));
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, both));
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to, const uint16_t* draws) const {
    const __m512i both = _mm512_loadu_si512(draws), lower = _mm512_set1_epi32(0xffff);
    const __m512i first =
        _mm512_add_epi32(_mm512_castps_si512(even.value), _mm512_and_si512(both, lower));
    const __m512i second =
        _mm512_add_epi32(_mm512_castps_si512(odd.value), _mm512_srli_epi32(both, 16));
    const __m512i low = _mm512_srli_epi32(first, 16);
    _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAA, low, second));
  }

 private:
  FASTOPT_HOST_DEVICE static BfloatPairs spread(__m512i x) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(x, upper))};
  }
  // The upper half of each lane.
  FASTOPT_HOST_DEVICE static __m512i rounded(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_slli_epi32(one, 16));
    const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(half, odd, half, one);
  }
  FASTOPT_HOST_DEVICE __m512i joined() const {
    const __m512i low = _mm512_srli_epi32(rounded(even.value), 16);
    return _mm512_mask_blend_epi16(0xAAAAAAAA, low, rounded(odd.value));
  }
};

// The upper or lower halves of both vectors, in order.
template <bool upper>
FASTOPT_HOST_DEVICE void store_halves(__m512i first, __m512i second, void* to) {
  alignas(64) static constexpr struct Places {
    uint16_t place[32] = {};
    constexpr Places() {
      for (int i = 0; i < 32; ++i) place[i] = static_cast<uint16_t>(2 * i + upper);
    }
  } places;
  const __m512i order = _mm512_load_si512(&places);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(first, order, second));
}

// Nothing is added to a NaN: arithmetic has left it a quiet one.
FASTOPT_HOST_DEVICE __m512i rounded(__m512 x, __m512i draws) {
  const __m512i bits = _mm512_castps_si512(x);
  return _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), bits, draws);
}
FASTOPT_HOST_DEVICE __m512i rounded(__m512 x) {
  const __m512i odd = _mm512_srli_epi32(_mm512_castps_si512(x), 16);
  return rounded(
      x, _mm512_add_epi32(_mm512_and_si512(odd, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff)));
}

FASTOPT_HOST_DEVICE void store_both(Vec<float> first, Vec<float> second, bfloat16* to) {
  store_halves<true>(rounded(first.value), rounded(second.value), to);
}
FASTOPT_HOST_DEVICE void store_both(Vec<float> first, Vec<float> second, bfloat16* to,
                                    const uint16_t* draws) {
  const auto widened = [draws](int i) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws + i)));
  };
  store_halves<true>(rounded(first.value, widened(0)), rounded(second.value, widened(16)), to);
}

// joined: where that would be a NaN, all that is left of it is the upper half.
FASTOPT_HOST_DEVICE __m512 joined(__m512i bits) {
  const __m512 x = _mm512_castsi512_ps(bits);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  bits = _mm512_mask_add_epi32(bits, nan, bits, _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, nan, bits, upper));
}
FASTOPT_HOST_DEVICE void load_split(const Split& from, Vec<float>& first, Vec<float>& second) {
  const __m512i lo = _mm512_loadu_si512(from.lo);
  const __m512i hi = _mm512_add_epi16(_mm512_loadu_si512(from.hi), _mm512_srai_epi16(lo, 15));
  alignas(64) static constexpr struct Places {
    uint16_t first[32] = {}, second[32] = {};
    constexpr Places() {
      for (int i = 0; i < 32; ++i) {
        first[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
        second[i] = static_cast<uint16_t>(i / 2 + 16 + i % 2 * 32);
      }
    }
  } places;
  first = joined(_mm512_permutex2var_epi16(lo, _mm512_load_si512(places.first), hi));
  second = joined(_mm512_permutex2var_epi16(lo, _mm512_load_si512(places.second), hi));
}
FASTOPT_HOST_DEVICE void store_split(Vec<float> first, Vec<float> second, const Split& to) {
  const auto bits_of = [](Vec<float> x) {
    const __mmask16 nan = _mm512_cmp_ps_mask(x.value, x.value, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(_mm512_castps_si512(x.value), nan, _mm512_set1_epi32(0x7fc00000));
  };
  const __m512i a = bits_of(first), b = bits_of(second), half = _mm512_set1_epi32(0x8000);
  store_halves<true>(_mm512_add_epi32(a, half), _mm512_add_epi32(b, half), to.hi);
  store_halves<false>(a, b, to.lo);
}

FASTOPT_HOST_DEVICE void finish_streaming() { _mm_sfence(); }

struct Words64 {
  static constexpr int lanes = 8, lockstep = 4;
  __m512i value;

  Words64() = default;
  FASTOPT_HOST_DEVICE Words64(__m512i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words64(uint64_t x) : value(_mm512_set1_epi64(static_cast<int64_t>(x))) {}
  FASTOPT_HOST_DEVICE static Words64 count_from(uint64_t first) {
    return _mm512_add_epi64(Words64(first).value, _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FASTOPT_HOST_DEVICE static Words64 threshold(uint32_t draw) {
    return _mm512_set1_epi16(static_cast<int16_t>(draw));
  }

  friend FASTOPT_HOST_DEVICE Words64 times(Words64 a, uint32_t b) {
    return _mm512_mul_epu32(a.value, _mm512_set1_epi64(b));
  }
  // A shuffle, since shifts would compete with the multiplications for one port.
  friend FASTOPT_HOST_DEVICE Words64 high(Words64 a) {
    return _mm512_shuffle_epi32(a.value, _MM_PERM_DDBB);
  }
  friend FASTOPT_HOST_DEVICE Words64 operator^(Words64 a, Words64 b) {
    return _mm512_xor_si512(a.value, b.value);
  }

  friend FASTOPT_HOST_DEVICE Words64 both_words(Words64 product, Words64 other, Words64 key) {
    const __m512i swapped = _mm512_shuffle_epi32(product.value, _MM_PERM_CDAB);
    return _mm512_mask_ternarylogic_epi32(swapped, 0x5555, other.value, key.value, 0x96);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Words64 first, Words64 second, uint16_t* to) {
#pragma GCC unroll 4
    for (int block = 0; block < lanes; block += 2) {  // words 0 to 3, twice each
      const __m512i order =
          _mm512_add_epi64(Words64(block).value, _mm512_setr_epi64(0, 8, 0, 8, 1, 9, 1, 9));
      const __m512i words = _mm512_permutex2var_epi64(first.value, order, second.value);
      _mm512_storeu_si512(to + 16 * block, _mm512_mask_rol_epi32(words, 0xf0f0, words, 8));
    }
  }

  FASTOPT_HOST_DEVICE static void store_kept(Words64 first, Words64 second, Words64 threshold,
                                             unsigned char* bits) {
    const __m512i blocks0 = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i blocks4 = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    const auto kept = [&](__m512i order) -> uint32_t {
      return _mm512_cmplt_epu16_mask(_mm512_permutex2var_epi64(first.value, order, second.value),
                                     threshold.value);
    };
    const uint32_t both[2] = {kept(blocks0), kept(blocks4)};
    __builtin_memcpy(bits, both, sizeof both);
  }
};

struct Words32 {
  __m512i value;

  Words32() = default;
  FASTOPT_HOST_DEVICE Words32(__m512i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words32(uint32_t x) : value(_mm512_set1_epi32(static_cast<int>(x))) {}
  FASTOPT_HOST_DEVICE static Words32 load(const void* from) { return _mm512_loadu_si512(from); }
  FASTOPT_HOST_DEVICE static Words32 extended(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const int8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

  friend FASTOPT_HOST_DEVICE Words32 operator&(Words32 a, Words32 b) {
    return _mm512_and_si512(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator|(Words32 a, Words32 b) {
    return _mm512_or_si512(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator+(Words32 a, Words32 b) {
    return _mm512_add_epi32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 with_bits(Words32 a, Words32 of_b, Words32 b) {
    return _mm512_ternarylogic_epi32(a.value, of_b.value, b.value, 0xf8);
  }
  friend FASTOPT_HOST_DEVICE Words32 larger(Words32 a, Words32 b) {
    return _mm512_max_epu32(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return _mm512_reduce_max_epu32(value); }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words32 a, Words32 b, uint8_t* to) {
    const __m512i upper =  // halves of the lanes
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i halves = _mm512_permutex2var_epi16(a.value, upper, b.value);
    __m512i codes = _mm512_srli_epi16(halves, CodeOf<coding>::shift - 16);
    if constexpr (!CodeOf<coding>::is_root) {
      // The upper byte holds 16 for a sign: 8 of it are 128.
      codes = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0801));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(codes));
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a) {
  return _mm512_slli_epi32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a, Words32 bits) {
  return _mm512_sllv_epi32(a.value, bits.value);
}
FASTOPT_HOST_DEVICE Words32 bits_of(Vec<float> x) { return _mm512_castps_si512(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words32 a) { return _mm512_castsi512_ps(a.value); }

FASTOPT_TARGET_END
