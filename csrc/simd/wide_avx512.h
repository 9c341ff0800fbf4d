// Wide on AVX-512: 8 lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

struct Wide {
  static constexpr int lanes = 8, lockstep = 4;
  __m512i value;

  Wide() = default;
  FASTOPT_HOST_DEVICE Wide(__m512i x) : value(x) {}
  FASTOPT_HOST_DEVICE Wide(uint64_t x) : value(_mm512_set1_epi64(static_cast<int64_t>(x))) {}
  FASTOPT_HOST_DEVICE static Wide count_from(uint64_t first) {
    return _mm512_add_epi64(Wide(first).value, _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FASTOPT_HOST_DEVICE static Wide threshold(uint32_t draw) {
    return _mm512_set1_epi16(static_cast<int16_t>(draw));
  }

  friend FASTOPT_HOST_DEVICE Wide times(Wide a, uint32_t b) {
    return _mm512_mul_epu32(a.value, _mm512_set1_epi64(b));
  }
  // A shuffle, since shifts would compete with the multiplications for one port.
  friend FASTOPT_HOST_DEVICE Wide high(Wide a) {
    return _mm512_shuffle_epi32(a.value, _MM_PERM_DDBB);
  }
  friend FASTOPT_HOST_DEVICE Wide operator^(Wide a, Wide b) {
    return _mm512_xor_si512(a.value, b.value);
  }

  friend FASTOPT_HOST_DEVICE Wide both_words(Wide product, Wide other, Wide key) {
    const __m512i swapped = _mm512_shuffle_epi32(product.value, _MM_PERM_CDAB);
    return _mm512_mask_ternarylogic_epi32(swapped, 0x5555, other.value, key.value, 0x96);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Wide first, Wide second, uint16_t* to) {
#pragma GCC unroll 4
    for (int block = 0; block < lanes; block += 2) {  // words 0 to 3, twice each
      const __m512i order =
          _mm512_add_epi64(Wide(block).value, _mm512_setr_epi64(0, 8, 0, 8, 1, 9, 1, 9));
      const __m512i words = _mm512_permutex2var_epi64(first.value, order, second.value);
      _mm512_storeu_si512(to + 16 * block, _mm512_mask_rol_epi32(words, 0xf0f0, words, 8));
    }
  }

  FASTOPT_HOST_DEVICE static void store_kept(Wide first, Wide second, Wide threshold,
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

FASTOPT_TARGET_END
