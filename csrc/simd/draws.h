// Which elements dropout keeps: one bit each, 256 elements at a time.
//
// Element i takes the 16-bit draw i mod 8 of Philox block i div 8 (numeric/philox.h) and is kept if
// the draw is below the threshold.
#pragma once

#include "simd/lockstep.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int tile = 256;  // elements
constexpr int draws_per_block = 8;

// The bits of one tile: bit i % 8 of byte i / 8 belongs to element i.
struct TileBits {
  alignas(64) unsigned char bytes[tile / 8];
};

// Bits of consecutive elements from any index on, tile by tile.
class Draws {
 public:
  FASTOPT_HOST_DEVICE Draws(uint64_t seed, uint64_t offset, uint32_t threshold, uint64_t index)
      : rounds_(seed, offset, index / draws_per_block),
        block_(index / draws_per_block),
        skipped_(static_cast<int>(index % draws_per_block)),
        limit_(threshold),
        threshold_(Words64::threshold(threshold)) {
    const bool nothing_to_draw = threshold == 0 || threshold > 0xffffu;
    if (skipped_ != 0 && !nothing_to_draw) draw(*this, ahead_);
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
    Words64 pairs[Words64::lockstep][2];
    Lockstep<dropout_rounds>(seed, offset, block).run<Words64::lockstep>(block, pairs);
    __builtin_memcpy(four, &pairs[0][0], 8);
    __builtin_memcpy(four + 2, &pairs[0][1], 8);
  }

 private:
  static constexpr int blocks = tile / draws_per_block;
  static constexpr int blocks_in_lockstep = Words64::lanes * Words64::lockstep;

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

  // The bits of the next 32 blocks. Not inlined: a call costs nothing next to it, and every loop
  // would have a copy.
  __attribute__((noinline)) static void draw(Draws& d, TileBits& bits) {
    const uint64_t last = d.block_ + blocks - 1;
    if (!d.rounds_.reaches(last)) {
      d.draw_one_by_one(bits);
      d.rounds_.start(last);
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < blocks; i += blocks_in_lockstep) {
        d.draw_in_lockstep(d.block_ + i, bits.bytes + i);
      }
    }
    d.block_ += blocks;
  }

  // Where the block's lower half overflows, once in 2^32 blocks.
  __attribute__((noinline)) void draw_one_by_one(TileBits& bits) const {
    for (int i = 0; i < blocks; ++i) {
      const Philox words = rounds_.alone(block_ + i);
      unsigned kept = 0;
      for (int j = 0; j < draws_per_block; ++j) kept |= unsigned{words.draw(j) < limit_} << j;
      bits.bytes[i] = static_cast<unsigned char>(kept);
    }
  }

  FASTOPT_HOST_DEVICE void draw_in_lockstep(uint64_t first_block, unsigned char* bits) const {
    Words64 pairs[Words64::lockstep][2];
    rounds_.run<Words64::lockstep>(first_block, pairs);
#pragma GCC unroll 8
    for (int k = 0; k < Words64::lockstep; ++k) {
      Words64::store_kept(pairs[k][0], pairs[k][1], threshold_, bits + k * Words64::lanes);
    }
  }

  Lockstep<dropout_rounds> rounds_;
  uint64_t block_;  // the next to draw
  int skipped_;     // draws of the first block that belong to elements before the first
  const uint32_t limit_;
  const Words64 threshold_;
  TileBits ahead_;  // already drawn
};

FASTOPT_TARGET_END
