// The draws by which eight adjoining elements are rounded.
#pragma once

#include <stdint.h>

#include "cuda/eight.h"
#include "cuda/launch.h"
#include "numeric/dither.h"
#include "numeric/philox.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A step's table of dither in shared memory (numeric/dtype.h): once for every place within 16 bytes
// where adjoining entries may begin, so that a thread reads 16 bytes of them at once.
template <class Entry>
struct DitherTable {
  static constexpr int copies = 16 / sizeof(Entry);
  alignas(16) Entry entries[copies][dither_size];

  // A thread's part.
  template <class EntryOf>
  FASTOPT_DEVICE void make(int thread, EntryOf entry_of) {
    for (int i = thread; i < dither_size; i += block_threads) {
      const Entry entry = entry_of(i);
      for (int copy = 0; copy < copies && copy <= i; ++copy) entries[copy][i - copy] = entry;
    }
  }

  // Eight entries from one on.
  FASTOPT_DEVICE void get(uint32_t first, Entry* to) const {
    const Entry* const from = entries[first % copies] + first / copies * copies;
    for (int k = 0; k < eight; k += copies) __builtin_memcpy(to + k, aligned<16>(from + k), 16);
  }
};

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

  // The same from a step's table, of an element whose number is a multiple of eight.
  FASTOPT_DEVICE static EightDraws dithered(const DitherTable<uint16_t>& table, int64_t element,
                                            int state) {
    EightDraws draws;
    alignas(16) uint16_t its[eight];
    table.get(half_dither_place(element, state), its);
    __builtin_memcpy(draws.words_, its, sizeof its);
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

  // Two draws each: the first eight, and those behind them.
  alignas(16) uint32_t words_[per_block] = {};
};

// A step's dither, as a thread computes it where it is asked for.
struct HashedDither {
  struct Tables {};
  static constexpr bool is_tabled = false;
  DitherStep step;

  FASTOPT_DEVICE HashedDither(const Tables&, DitherStep step) : step(step) {}
  FASTOPT_DEVICE EightDraws of_halves(int64_t element, int state) const {
    return EightDraws::dithered(step, element, state);
  }
  template <DType coding>
  FASTOPT_DEVICE void of_codes(uint32_t entry, uint32_t* to) const {
    for (int k = 0; k < eight; ++k) to[k] = dither_entry<coding>(step, entry + k);
  }
};

// From tables that a block has made: of states in bfloat16, and of codes.
struct TabledHalves {
  using Tables = DitherTable<uint16_t>;
  static constexpr bool is_tabled = true;
  const Tables& tables;
  DitherStep step;

  FASTOPT_DEVICE TabledHalves(const Tables& tables, DitherStep step) : tables(tables), step(step) {}
  FASTOPT_DEVICE static void make(Tables& tables, DitherStep step, int thread) {
    tables.make(thread, [=](uint32_t entry) { return half_dither_entry(step, entry); });
  }
  FASTOPT_DEVICE EightDraws of_halves(int64_t element, int state) const {
    return element % eight == 0 ? EightDraws::dithered(tables, element, state)
                                : EightDraws::dithered(step, element, state);
  }
};
struct TabledCodes {
  struct Tables {
    DitherTable<uint32_t> signed8, root8;
  };
  static constexpr bool is_tabled = true;
  const Tables& tables;

  FASTOPT_DEVICE TabledCodes(const Tables& tables, DitherStep) : tables(tables) {}
  FASTOPT_DEVICE static void make(Tables& tables, DitherStep step, int thread) {
    tables.signed8.make(thread, [=](uint32_t i) { return dither_entry<DType::signed8>(step, i); });
    tables.root8.make(thread, [=](uint32_t i) { return dither_entry<DType::root8>(step, i); });
  }
  template <DType coding>
  FASTOPT_DEVICE void of_codes(uint32_t entry, uint32_t* to) const {
    (coding == DType::root8 ? tables.root8 : tables.signed8).get(entry, to);
  }
};

FASTOPT_TARGET_END
