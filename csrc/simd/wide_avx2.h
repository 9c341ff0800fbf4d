// Wide on AVX2: 4 lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

struct Wide {
  static constexpr int lanes = 4, lockstep = 4;
  __m256i value;

  Wide() = default;
  FASTOPT_HOST_DEVICE Wide(__m256i x) : value(x) {}
  FASTOPT_HOST_DEVICE Wide(uint64_t x) : value(_mm256_set1_epi64x(static_cast<int64_t>(x))) {}
  FASTOPT_HOST_DEVICE static Wide count_from(uint64_t first) {
    return _mm256_add_epi64(Wide(first).value, _mm256_setr_epi64x(0, 1, 2, 3));
  }
  FASTOPT_HOST_DEVICE static Wide threshold(uint32_t draw) {  // for <= instead of <
    return _mm256_set1_epi16(static_cast<int16_t>(draw - 1));
  }

  friend FASTOPT_HOST_DEVICE Wide times(Wide a, uint32_t b) {
    return _mm256_mul_epu32(a.value, _mm256_set1_epi64x(b));
  }
  friend FASTOPT_HOST_DEVICE Wide high(Wide a) { return _mm256_shuffle_epi32(a.value, 0xF5); }
  friend FASTOPT_HOST_DEVICE Wide operator^(Wide a, Wide b) {
    return _mm256_xor_si256(a.value, b.value);
  }

  friend FASTOPT_HOST_DEVICE Wide both_words(Wide product, Wide other, Wide key) {
    const __m256i swapped = _mm256_shuffle_epi32(product.value, 0xB1);
    const __m256i lower = _mm256_blend_epi32(_mm256_setzero_si256(), (other ^ key).value, 0x55);
    return _mm256_xor_si256(swapped, lower);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Wide first, Wide second, uint16_t* to) {
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

  FASTOPT_HOST_DEVICE static void store_kept(Wide first, Wide second, Wide threshold,
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

FASTOPT_TARGET_END
