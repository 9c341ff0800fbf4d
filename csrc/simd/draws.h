// Which elements dropout keeps: one bit each, 256 elements at a time.
//
// Element i takes the 16-bit draw i mod 8 of Philox block i div 8 (numeric/philox.h) and is kept if
// the draw is below the threshold. A vector, Wide, has a block's 32-bit word in each 64-bit lane,
// because the multiplications give 64 bits; the upper half may hold anything, as times() does not
// look at it. Several vectors go through the rounds in lockstep to hide the multiplications'
// latency. Every Wide offers: lanes, lockstep, count_from, threshold, times, high (the upper halves
// moved down), ^, both_words (of the last round: high(product) ^ other ^ key below the product's
// lower half), store_words and store_kept: its blocks' words, or the bits of their draws, in order.
#pragma once

#include "numeric/philox.h"
#include "target.h"

#if defined(FASTOPT_SIMD_AVX512)
#include "simd/wide_avx512.h"
#elif defined(FASTOPT_SIMD_AVX2)
#include "simd/wide_avx2.h"
#elif defined(FASTOPT_SIMD_NEON)
#include "simd/wide_neon.h"
#else
#include "simd/wide_scalar.h"
#endif

FASTOPT_TARGET_BEGIN

constexpr int tile = 256;  // elements
constexpr int draws_per_block = 8;

// The bits of one tile: bit i % 8 of byte i / 8 belongs to element i.
struct TileBits {
  alignas(64) unsigned char bytes[tile / 8];
};

// Bits of consecutive elements from any index on, tile by tile; or their draws.
class Draws {
 public:
  static constexpr int at_once = 64;  // numbers: a few vectors that run beside other work

  FASTOPT_HOST_DEVICE Draws(uint64_t seed, uint64_t offset, uint32_t threshold, uint64_t index)
      : seed_(seed),
        offset_(offset),
        block_(index / draws_per_block),
        skipped_(static_cast<int>(index % draws_per_block)),
        limit_(threshold),
        threshold_(Wide::threshold(threshold)) {
    const bool nothing_to_draw = threshold == 0 || threshold > 0xffffu;
    if (nothing_to_draw) return;
    uint32_t key0 = Philox::low(seed), key1 = Philox::high(seed);
    for (int round = 0; round < philox_rounds; ++round) {
      key0_[round] = Wide(key0);
      key1_[round] = Wide(key1);
      key0 += philox_step0;
      key1 += philox_step1;
    }
    start_rounds(Philox::high(block_));
    if (skipped_ != 0) draw(*this, ahead_);
  }

  FASTOPT_HOST_DEVICE void next(TileBits& bits) {
    if (limit_ == 0) {
      __builtin_memset(bits.bytes, 0, sizeof bits.bytes);
    } else if (limit_ > 0xffffu) {
      __builtin_memset(bits.bytes, 0xff, sizeof bits.bytes);
    } else if (skipped_ == 0) {
      draw(*this, bits);
    } else {
      next_shifted(bits);
    }
  }

  // The four words of a block, as the vectors' first lane has them.
  FASTOPT_HOST_DEVICE static void block_words(uint64_t seed, uint64_t offset, uint64_t block,
                                              uint32_t* four) {
    Draws draws(seed, offset, 1, 0);
    draws.start_rounds(Philox::high(block));
    Wide pairs[Wide::lockstep][2];
    draws.run_rounds(block, pairs);
    __builtin_memcpy(four, &pairs[0][0], 8);
    __builtin_memcpy(four + 2, &pairs[0][1], 8);
  }

  // The draws themselves, of the next `at_once` elements.
  FASTOPT_HOST_DEVICE void next_numbers(uint16_t* to) {
    constexpr uint64_t fresh_blocks = at_once / draws_per_block;
    alignas(64) uint64_t words[2 * fresh_blocks];
    const uint32_t last_high = Philox::high(block_ + fresh_blocks - 1);
    if (last_high != block_high_) {
      words_one_by_one(words);
      start_rounds(last_high);
    } else {
      words_in_lockstep(words);
    }
    block_ += fresh_blocks;
    if (skipped_ == 0) {
      __builtin_memcpy(to, words, sizeof words);
      return;
    }
    const int left = draws_per_block - skipped_;  // of the block before
    __builtin_memcpy(to, rest_ + skipped_, left * sizeof *to);
    __builtin_memcpy(to + left, words, sizeof words - left * sizeof *to);
    __builtin_memcpy(rest_, words + 2 * fresh_blocks - 2, sizeof rest_);
  }

  // For next_numbers, from the element `index` on.
  FASTOPT_HOST_DEVICE static Draws of_numbers(uint64_t seed, uint64_t offset, uint64_t index) {
    Draws draws(seed, offset, 1, index / draws_per_block * draws_per_block);
    draws.skipped_ = static_cast<int>(index % draws_per_block);
    if (draws.skipped_ != 0) {
      const Philox four(draws.block_++, offset, seed);
      __builtin_memcpy(draws.rest_, four.word, sizeof draws.rest_);
    }
    return draws;
  }

 private:
  static constexpr int blocks = tile / draws_per_block;
  static constexpr int blocks_in_lockstep = Wide::lanes * Wide::lockstep;

  // A tile that starts within a block takes its last bits from the tile drawn after it.
  FASTOPT_HOST_DEVICE void next_shifted(TileBits& bits) {
    TileBits fresh;
    draw(*this, fresh);
    unsigned char both[sizeof bits.bytes + 1];
    __builtin_memcpy(both, ahead_.bytes, sizeof ahead_.bytes);
    both[sizeof bits.bytes] = fresh.bytes[0];
    for (unsigned i = 0; i < sizeof bits.bytes; ++i) {
      bits.bytes[i] = static_cast<unsigned char>((both[i] | both[i + 1] << 8) >> skipped_);
    }
    ahead_ = fresh;
  }

  // What the first three rounds make of the counter's upper three words, which stay as they are
  // over 2^32 blocks: 2 of 20 multiplications and some more are done once.
  FASTOPT_HOST_DEVICE void start_rounds(uint32_t block_high) {
    const uint32_t key0 = Philox::low(seed_), key1 = Philox::high(seed_);
    const uint64_t b = uint64_t{philox_multiplier1} * Philox::low(offset_);
    const uint32_t word0 = Philox::high(b) ^ block_high ^ key0;
    const uint64_t a = uint64_t{philox_multiplier0} * word0;
    block_high_ = block_high;
    first_ = Wide(Philox::high(offset_) ^ key1);
    second0_ = Wide(Philox::low(b) ^ (key0 + philox_step0));
    second2_ = Wide(Philox::high(a) ^ (key1 + philox_step1));
    third_ = Wide(Philox::low(a) ^ (key1 + 2 * philox_step1));
  }

  // The bits of the next 32 blocks. Not inlined: a call costs nothing next to it, and every loop
  // would have a copy.
  __attribute__((noinline)) static void draw(Draws& d, TileBits& bits) {
    const uint32_t last_high = Philox::high(d.block_ + blocks - 1);
    if (last_high != d.block_high_) {
      d.draw_one_by_one(bits);
      d.start_rounds(last_high);
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < blocks; i += blocks_in_lockstep) {
        d.draw_in_lockstep(d.block_ + i, bits.bytes + i);
      }
    }
    d.block_ += blocks;
  }

  // Where the block's lower half overflows, once in 2^32 blocks.
  void draw_one_by_one(TileBits& bits) const {
    for (int i = 0; i < blocks; ++i) {
      const Philox words(block_ + i, offset_, seed_);
      unsigned kept = 0;
      for (int j = 0; j < draws_per_block; ++j) kept |= unsigned{words.draw(j) < limit_} << j;
      bits.bytes[i] = static_cast<unsigned char>(kept);
    }
  }

  FASTOPT_HOST_DEVICE void draw_in_lockstep(uint64_t first_block, unsigned char* bits) const {
    Wide pairs[Wide::lockstep][2];
    run_rounds(first_block, pairs);
#pragma GCC unroll 8
    for (int k = 0; k < Wide::lockstep; ++k) {
      Wide::store_kept(pairs[k][0], pairs[k][1], threshold_, bits + k * Wide::lanes);
    }
  }

  FASTOPT_HOST_DEVICE void words_in_lockstep(uint64_t* words) const {
    constexpr int vectors = at_once / draws_per_block / Wide::lanes;
    Wide pairs[vectors][2];
    run_rounds<vectors>(block_, pairs);
#pragma GCC unroll 8
    for (int k = 0; k < vectors; ++k) {
      Wide::store_words(pairs[k][0], pairs[k][1], words + 2 * k * Wide::lanes);
    }
  }

  __attribute__((noinline)) void words_one_by_one(uint64_t* words) const {
    for (int i = 0; i < at_once / draws_per_block; ++i) {
      const Philox four(block_ + i, offset_, seed_);
      __builtin_memcpy(words + 2 * i, four.word, sizeof four.word);
    }
  }

  // A lane of pairs[k] holds words 0 and 1, and 2 and 3, of its block.
  template <int n = Wide::lockstep>
  FASTOPT_HOST_DEVICE void run_rounds(uint64_t first_block, Wide (*pairs)[2]) const {
    constexpr int last = philox_rounds - 1;
    constexpr uint32_t m0 = philox_multiplier0, m1 = philox_multiplier1;
    Wide word0[n], word1[n], word2[n], word3[n];
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Wide a = times(Wide::count_from(first_block + k * Wide::lanes), m0);
      const Wide b = times(high(a) ^ first_, m1);
      word0[k] = high(b) ^ second0_;
      word1[k] = b;
      word2[k] = a ^ second2_;
    }
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Wide a = times(word0[k], m0), b = times(word2[k], m1);
      word0[k] = high(b) ^ word1[k] ^ key0_[2];
      word1[k] = b;
      word2[k] = high(a) ^ third_;
      word3[k] = a;
    }
#pragma GCC unroll 16
    for (int round = 3; round < last; ++round) {
#pragma GCC unroll 8
      for (int k = 0; k < n; ++k) {
        const Wide a = times(word0[k], m0), b = times(word2[k], m1);
        word0[k] = high(b) ^ word1[k] ^ key0_[round];
        word1[k] = b;
        word2[k] = high(a) ^ word3[k] ^ key1_[round];
        word3[k] = a;
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < n; ++k) {
      const Wide a = times(word0[k], m0), b = times(word2[k], m1);
      pairs[k][0] = both_words(b, word1[k], key0_[last]);
      pairs[k][1] = both_words(a, word3[k], key1_[last]);
    }
  }

  const uint64_t seed_, offset_;
  uint64_t block_;  // the next to draw
  int skipped_;     // draws of the first block that belong to elements before the first
  const uint32_t limit_;
  uint32_t block_high_ = 0;
  const Wide threshold_;
  Wide key0_[philox_rounds], key1_[philox_rounds];
  Wide first_, second0_, second2_, third_;
  TileBits ahead_;                  // for next: bits already drawn
  uint16_t rest_[draws_per_block];  // for next_numbers: the last block's draws
};

FASTOPT_TARGET_END
