// The draws by which parameters are rounded at random: 16 bits an element, 256 elements at a time.
//
// Element i takes draw i mod 16 of Philox block i div 16 (rounding_draw of
// numeric/philox.h).
#pragma once

#include "simd/lockstep.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Draws of consecutive elements from any index on.
class RoundingDraws {
 public:
  static constexpr int at_once = 256;  // more would be a waste for small parameters

  FASTOPT_HOST_DEVICE RoundingDraws(uint64_t seed, uint64_t offset, uint64_t index)
      : rounds_(seed, offset, index / per_block),
        block_(index / per_block),
        skipped_(static_cast<int>(index % per_block)) {
    if (skipped_ != 0) draw_alone(block_++, rest_);
  }

  FASTOPT_HOST_DEVICE void next(uint16_t* to) {
    if (skipped_ == 0) {
      draw(to);
      return;
    }
    alignas(64) uint16_t fresh[at_once];
    draw(fresh);
    const int left = per_block - skipped_;  // of the block before
    __builtin_memcpy(to, rest_ + skipped_, left * sizeof *to);
    __builtin_memcpy(to + left, fresh, (at_once - left) * sizeof *to);
    __builtin_memcpy(rest_, fresh + at_once - per_block, sizeof rest_);
  }

 private:
  static constexpr int per_block = 16;
  static constexpr int blocks = at_once / per_block;

  // Not inlined: a call costs nothing next to it, and every loop would have a copy.
  __attribute__((noinline)) void draw(uint16_t* to) {
    const uint64_t last = block_ + blocks - 1;
    if (!rounds_.reaches(last)) {
      draw_one_by_one(to);
      rounds_.start(last);
    } else {
      draw_in_lockstep(to);
    }
    block_ += blocks;
  }

  FASTOPT_HOST_DEVICE void draw_in_lockstep(uint16_t* to) const {
    for (int i = 0; i < blocks; i += 2 * Words64::lanes) {
      Words64 pairs[2][2];
      rounds_.run<2>(block_ + i, pairs);
      for (int k = 0; k < 2; ++k) {
        Words64::store_draws(pairs[k][0], pairs[k][1], to + (i + k * Words64::lanes) * per_block);
      }
    }
  }

  // Where the block's lower half overflows, once in 2^32 blocks.
  __attribute__((noinline)) void draw_one_by_one(uint16_t* to) const {
    for (int i = 0; i < blocks; ++i) draw_alone(block_ + i, to + i * per_block);
  }

  FASTOPT_HOST_DEVICE void draw_alone(uint64_t block, uint16_t* to) const {
    const Philox words = rounds_.alone(block);
    for (int j = 0; j < per_block; ++j) to[j] = rounding_draw(words.word, j);
  }

  Lockstep<rounding_rounds> rounds_;
  uint64_t block_;            // the next to draw
  int skipped_;               // draws of the first block that belong to elements before the first
  uint16_t rest_[per_block];  // the last block's, where some are left of it
};

FASTOPT_TARGET_END
