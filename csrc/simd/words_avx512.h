// Words on AVX-512: 16 lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec_avx512.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

struct Words {
  __m512i value;

  Words() = default;
  FASTOPT_HOST_DEVICE Words(__m512i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words(uint32_t x) : value(_mm512_set1_epi32(static_cast<int>(x))) {}
  FASTOPT_HOST_DEVICE static Words load(const uint32_t* from) { return _mm512_loadu_si512(from); }
  FASTOPT_HOST_DEVICE static Words extended(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  FASTOPT_HOST_DEVICE static Words extended(const int8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

  friend FASTOPT_HOST_DEVICE Words operator&(Words a, Words b) {
    return _mm512_and_si512(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator|(Words a, Words b) {
    return _mm512_or_si512(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator+(Words a, Words b) {
    return _mm512_add_epi32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words larger(Words a, Words b) {
    return _mm512_max_epu32(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return _mm512_reduce_max_epu32(value); }

  // Packing works on each 128 bits apart: they hold 4 codes of `a`, 4 of `b`, and both again.
  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words a, Words b, uint8_t* to) {
    constexpr int shift = CodeOf<coding>::shift;
    __m512i halves =
        _mm512_packus_epi32(_mm512_srli_epi32(a.value, shift), _mm512_srli_epi32(b.value, shift));
    if constexpr (CodeOf<coding>::is_root) {
      halves = _mm512_and_si512(halves, _mm512_set1_epi16(0xff));
    } else {
      const __m512i magnitude = _mm512_set1_epi16(0x7f);
      const __m512i sign = _mm512_srli_epi16(halves, 31 - shift - 7);
      halves = _mm512_or_si512(_mm512_and_si512(magnitude, halves),
                               _mm512_andnot_si512(magnitude, sign));
    }
    const __m512i codes = _mm512_packus_epi16(halves, halves);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, codes)));
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words shifted_left(Words a) {
  return _mm512_slli_epi32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words bits_of(Vec<float> x) { return _mm512_castps_si512(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words a) { return _mm512_castsi512_ps(a.value); }

FASTOPT_TARGET_END
