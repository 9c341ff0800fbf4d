// Words on AVX2: 8 lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec_avx2.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

struct Words {
  __m256i value;

  Words() = default;
  FASTOPT_HOST_DEVICE Words(__m256i x) : value(x) {}
  FASTOPT_HOST_DEVICE Words(uint32_t x) : value(_mm256_set1_epi32(static_cast<int>(x))) {}
  FASTOPT_HOST_DEVICE static Words load(const uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  FASTOPT_HOST_DEVICE static Words extended(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  FASTOPT_HOST_DEVICE static Words extended(const int8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }

  friend FASTOPT_HOST_DEVICE Words operator&(Words a, Words b) {
    return _mm256_and_si256(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator|(Words a, Words b) {
    return _mm256_or_si256(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator+(Words a, Words b) {
    return _mm256_add_epi32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words larger(Words a, Words b) {
    return _mm256_max_epu32(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const {
    uint32_t lane[8], most = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane), value);
    for (const uint32_t x : lane) most = larger(most, x);
    return most;
  }

  // Packing works on each 128 bits apart: they hold 4 codes of `a`, 4 of `b`, and both again.
  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words a, Words b, uint8_t* to) {
    constexpr int shift = CodeOf<coding>::shift;
    __m256i halves =
        _mm256_packus_epi32(_mm256_srli_epi32(a.value, shift), _mm256_srli_epi32(b.value, shift));
    if constexpr (CodeOf<coding>::is_root) {
      halves = _mm256_and_si256(halves, _mm256_set1_epi16(0xff));
    } else {
      const __m256i magnitude = _mm256_set1_epi16(0x7f);
      const __m256i sign = _mm256_srli_epi16(halves, 31 - shift - 7);
      halves = _mm256_or_si256(_mm256_and_si256(magnitude, halves),
                               _mm256_andnot_si256(magnitude, sign));
    }
    const __m256i codes = _mm256_packus_epi16(halves, halves);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(codes, order)));
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words shifted_left(Words a) {
  return _mm256_slli_epi32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words bits_of(Vec<float> x) { return _mm256_castps_si256(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words a) { return _mm256_castsi256_ps(a.value); }

FASTOPT_TARGET_END
