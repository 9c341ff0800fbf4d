// The draws of 16 bits by which eight adjoining elements are rounded.
#pragma once

#include <stdint.h>

#include "cuda/eight.h"
#include "numeric/dither.h"
#include "numeric/philox.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

class EightDraws {
 public:
  // Those of a parameter that is rounded at random, from a number on (numeric/philox.h).
  FASTOPT_DEVICE static EightDraws random(uint64_t seed, uint64_t offset, uint64_t index) {
    const uint64_t block = index / per_block;
    const int skipped = static_cast<int>(index % per_block);
    EightDraws draws;
    draws.put(Philox(block, offset, seed, rounding_rounds), 0);
    if (skipped % eight != 0) {
      draws.put(Philox(block + 1, offset, seed, rounding_rounds), per_block / 2);
    }
    draws.skip<8>(skipped);
    if (skipped % eight != 0) {
      draws.skip<4>(skipped);
      draws.skip<2>(skipped);
      draws.skip_one(skipped);
    }
    return draws;
  }

  // Those of a state of 16 bits, from an element of the whole parameter on (numeric/dither.h).
  FASTOPT_DEVICE static EightDraws dithered(DitherStep step, int64_t element, int state) {
    EightDraws draws;
    if (element % eight != 0) {  // they may be of two blocks
      for (int k = 0; k < eight; ++k) {
        const uint32_t draw = half_dither_entry(step, half_dither_place(element + k, state));
        draws.words_[k / 2] = k % 2 == 0 ? draw : draws.words_[k / 2] | draw << 16;
      }
      return draws;
    }
    const uint32_t place = half_dither_place(element, state);
    for (int k = 0; k < eight / 2 + 1; ++k) {
      draws.words_[k] = half_dither_pair(step, place / 2 + k);
    }
    draws.skip_one(place);
    return draws;
  }

  FASTOPT_DEVICE uint16_t operator[](int k) const {
    return static_cast<uint16_t>(words_[k / 2] >> 16 * (k % 2));
  }

 private:
  static constexpr int per_block = 16;

  FASTOPT_DEVICE void put(const Philox& block, int word) {
    for (int k = 0; k < per_block / 2; ++k) {
      words_[word + k] =
          rounding_draw(block.word, 2 * k) | uint32_t{rounding_draw(block.word, 2 * k + 1)} << 16;
    }
  }

  // So many of them, if their bit is set in `skipped`.
  template <int count>
  FASTOPT_DEVICE void skip(int skipped) {
    for (int k = 0; k < per_block / 2; ++k) {
      words_[k] = (skipped & count) != 0 ? words_[k + count / 2] : words_[k];
    }
  }
  FASTOPT_DEVICE void skip_one(uint32_t skipped) {
    for (int k = 0; k < eight / 2; ++k) {
      words_[k] = skipped % 2 != 0 ? words_[k] >> 16 | words_[k + 1] << 16 : words_[k];
    }
  }

  uint32_t words_[per_block] = {};  // two draws each: the first eight, and those behind them
};

FASTOPT_TARGET_END
