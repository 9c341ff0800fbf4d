// Philox4x32: random words as a function of a counter and a key, with no state.
//
// Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3. This plain form is
// what the vectors of simd/lockstep.h repeat; tests/data/philox.txt has its known answers.
#pragma once

#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int dropout_rounds = 10;
constexpr int rounding_rounds = 7;  // the fewest that pass BigCrush, as the authors report
constexpr uint32_t philox_multiplier0 = 0xD2511F53u, philox_multiplier1 = 0xCD9E8D57u;
constexpr uint32_t philox_step0 = 0x9E3779B9u, philox_step1 = 0xBB67AE85u;  // of the key, a round

// The four words of one counter.
struct Philox {
  uint32_t word[4];

  FASTOPT_HOST_DEVICE Philox(uint64_t counter_low, uint64_t counter_high, uint64_t key, int rounds)
      : word{low(counter_low), high(counter_low), low(counter_high), high(counter_high)} {
    uint32_t key0 = low(key), key1 = high(key);
    for (int round = 0; round < rounds; ++round) {
      const uint64_t a = product(philox_multiplier0, word[0]);
      const uint64_t b = product(philox_multiplier1, word[2]);
      word[0] = high(b) ^ word[1] ^ key0;
      word[1] = low(b);
      word[2] = high(a) ^ word[3] ^ key1;
      word[3] = low(a);
      key0 += philox_step0;
      key1 += philox_step1;
    }
  }

  // Draw j of eight, for dropout: 16 bits, the low half of a word first.
  FASTOPT_HOST_DEVICE uint32_t draw(int j) const { return word[j / 2] >> (16 * (j % 2)) & 0xffffu; }

  FASTOPT_HOST_DEVICE static uint64_t product(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    uint64_t both;  // of a product of 64 bits nvcc would add up parts that are 0
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(both) : "r"(a), "r"(b));
    return both;
#else
    return uint64_t{a} * b;
#endif
  }
  FASTOPT_HOST_DEVICE static uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
  FASTOPT_HOST_DEVICE static uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }
};

// Draw j of a block's sixteen for rounding: the words' halves, as above, then those of the words
// rotated by 8 bits.
FASTOPT_HOST_DEVICE uint16_t rounding_draw(const uint32_t* words, int j) {
  const uint32_t plain = words[j % 8 / 2], turned = j < 8 ? plain : plain << 8 | plain >> 24;
  return static_cast<uint16_t>(turned >> (16 * (j % 2)));
}

FASTOPT_TARGET_END
