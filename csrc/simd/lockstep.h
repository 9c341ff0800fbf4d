// Philox's blocks of consecutive numbers, several vectors of them at a time.
//
// Words64 has a block's 32-bit word in each 64-bit lane; the upper half may hold anything, as
// times() does not look at it. Several vectors go through the rounds in lockstep to hide the
// multiplications' latency. Words64 offers: lanes, lockstep, count_from, threshold, times, high
// (the upper halves moved down), ^, both_words (of the last round: high(product) ^ other ^ key
// below the product's lower half), store_draws and store_kept: its blocks' sixteen draws for
// rounding, or the bits of their eight for dropout, in order.
#pragma once

#include "numeric/philox.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <int rounds>
class Lockstep {
 public:
  FASTOPT_HOST_DEVICE Lockstep(uint64_t seed, uint64_t offset, uint64_t block)
      : seed_(seed), offset_(offset) {
    uint32_t key0 = Philox::low(seed), key1 = Philox::high(seed);
    for (int round = 0; round < rounds; ++round) {
      key0_[round] = Words64(key0);
      key1_[round] = Words64(key1);
      key0 += philox_step0;
      key1 += philox_step1;
    }
    start(block);
  }

  // What the first three rounds make of the counter's upper three words, which stay as they are
  // over 2^32 blocks: 2 multiplications and some more are done once.
  FASTOPT_HOST_DEVICE void start(uint64_t block) {
    const uint32_t key0 = Philox::low(seed_), key1 = Philox::high(seed_);
    const uint64_t b = uint64_t{philox_multiplier1} * Philox::low(offset_);
    const uint32_t word0 = Philox::high(b) ^ Philox::high(block) ^ key0;
    const uint64_t a = uint64_t{philox_multiplier0} * word0;
    block_high_ = Philox::high(block);
    first_ = Words64(Philox::high(offset_) ^ key1);
    second0_ = Words64(Philox::low(b) ^ (key0 + philox_step0));
    second2_ = Words64(Philox::high(a) ^ (key1 + philox_step1));
    third_ = Words64(Philox::low(a) ^ (key1 + 2 * philox_step1));
  }

  // Whether what was started holds for a block; else it is to be taken alone.
  FASTOPT_HOST_DEVICE bool reaches(uint64_t block) const {
    return Philox::high(block) == block_high_;
  }

  FASTOPT_HOST_DEVICE Philox alone(uint64_t block) const {
    return Philox(block, offset_, seed_, rounds);
  }

  // A lane of pairs[k] holds words 0 and 1, and 2 and 3, of its block.
  template <int n>
  FASTOPT_HOST_DEVICE void run(uint64_t first_block, Words64 (*pairs)[2]) const {
    constexpr int last = rounds - 1;
    constexpr uint32_t m0 = philox_multiplier0, m1 = philox_multiplier1;
    Words64 word0[n], word1[n], word2[n], word3[n];
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Words64 a = times(Words64::count_from(first_block + k * Words64::lanes), m0);
      const Words64 b = times(high(a) ^ first_, m1);
      word0[k] = high(b) ^ second0_;
      word1[k] = b;
      word2[k] = a ^ second2_;
    }
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Words64 a = times(word0[k], m0), b = times(word2[k], m1);
      word0[k] = high(b) ^ word1[k] ^ key0_[2];
      word1[k] = b;
      word2[k] = high(a) ^ third_;
      word3[k] = a;
    }
#pragma GCC unroll 16
    for (int round = 3; round < last; ++round) {
#pragma GCC unroll 8
      for (int k = 0; k < n; ++k) {
        const Words64 a = times(word0[k], m0), b = times(word2[k], m1);
        word0[k] = high(b) ^ word1[k] ^ key0_[round];
        word1[k] = b;
        word2[k] = high(a) ^ word3[k] ^ key1_[round];
        word3[k] = a;
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Words64 a = times(word0[k], m0), b = times(word2[k], m1);
      pairs[k][0] = both_words(b, word1[k], key0_[last]);
      pairs[k][1] = both_words(a, word3[k], key1_[last]);
    }
  }

 private:
  const uint64_t seed_, offset_;
  uint32_t block_high_;
  Words64 key0_[rounds], key1_[rounds];
  Words64 first_, second0_, second2_, third_;
};

FASTOPT_TARGET_END
