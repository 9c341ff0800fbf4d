// The CUDA kernel of parameters with a packing (cpu/packing.h).
//
// A parameter is cut into pieces of 256 elements within its rows, as the blocks of states in 8 bits
// are, and a thread takes one element of a piece. What a block's threads need of each other goes
// through shared memory: the random numbers that sixteen of them share, and the largest magnitudes
// of which the scales are made.
#pragma once

#include <new>

#include "cuda/arrays.h"
#include "cuda/divide.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "numeric/code8.h"
#include "numeric/dither.h"
#include "numeric/philox.h"
#include "numeric/split.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int pieces_at_once = chunk_size / block_size;  // a block's work
static_assert(block_size == block_threads);

FASTOPT_HOST_DEVICE int64_t row_of(const CudaPackedItem& item) {
  return item.packing.row > 0 ? item.packing.row : item.size;
}
FASTOPT_HOST_DEVICE int64_t pieces_of_row(int64_t row) {
  return (row + block_size - 1) / block_size;
}

// An item's chunks, as chunks_of(item.size) is for those without packing.
inline int64_t chunks_of(const CudaPackedItem& item) {
  const int64_t row = row_of(item), pieces = item.size / row * pieces_of_row(row);
  return (pieces + pieces_at_once - 1) / pieces_at_once;
}

// Up to block_size elements of a row, counted through over all rows.
struct Piece {
  int64_t number, begin;  // begin: the first element
  int length;

  FASTOPT_DEVICE Piece(const CudaPackedItem& item, int64_t piece) : number(piece) {
    const int64_t row = row_of(item), pieces = pieces_of_row(row), r = quotient(piece, pieces);
    const int64_t in_row = (piece - r * pieces) * block_size, rest = row - in_row;
    begin = r * row + in_row;
    length = static_cast<int>(rest < block_size ? rest : block_size);
  }
};

template <class Rule, unsigned used>
struct PackedKernel {
  using Args = PackedTable;
  using V = Vec<float>;
  using Bound = Update<Rule, float, used>;
  static constexpr int draws = 16;      // of a block of random numbers
  static constexpr int searchers = 16;  // threads that look for the largest magnitude

  struct Shared {
    alignas(Bound) unsigned char bound[sizeof(Bound)];
    int item;
    int64_t first, last;  // pieces
    uint32_t words[block_size / draws + 1][4];
    float numbers[max_states][block_size];  // of states in 8 bits, updated
    uint32_t largest[max_states][searchers];
  };

  static FASTOPT_DEVICE void run(const PackedTable& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread == 0) bind(table, block.index, shared);
    });
    const CudaPackedItem& item = table.items[shared.item];
    for (int64_t number = shared.first; number < shared.last; ++number) {
      const Piece piece(item, number);
      if (item.packing.master == Master::stochastic) {
        block.each([&](int thread) { draw(item, piece, shared, thread); });
      }
      block.each([&](int thread) {
        if (thread < piece.length) update(item, piece, shared, thread);
      });
      if (item.packing.row == 0) continue;
      block.each([&](int thread) { search(piece, shared, thread); });
      block.each([&](int thread) {
        if (thread < piece.length) encode(item, piece, shared, thread);
      });
    }
  }

 private:
  static FASTOPT_DEVICE void bind(const PackedTable& table, int64_t chunk, Shared& shared) {
    shared.item = entry_at(table.items, table.count, chunk);
    const CudaPackedItem& item = table.items[shared.item];
    const int64_t row = row_of(item), pieces = item.size / row * pieces_of_row(row);
    shared.first = (chunk - item.first_chunk) * pieces_at_once;
    const int64_t behind = shared.first + pieces_at_once;
    shared.last = behind < pieces ? behind : pieces;
    if (table.found_inf != nullptr && *table.found_inf != 0) shared.last = shared.first;
    new (shared.bound) Bound(rule_of<Rule>(table, item), read(table.grad_factor), table.ema_decay);
  }

  // A block of random numbers for each sixteen elements that share one.
  static FASTOPT_DEVICE void draw(const CudaPackedItem& item, const Piece& piece, Shared& shared,
                                  int thread) {
    const Packing& packing = item.packing;
    const uint64_t index = packing.index + piece.begin;
    if (thread * draws >= piece.length + static_cast<int>(index % draws)) return;
    const uint64_t seed = item.rounding == nullptr ? packing.seed : item.rounding[0];
    const uint64_t offset = packing.offset + (item.rounding == nullptr ? 0 : item.rounding[1]);
    const Philox words(index / draws + thread, offset, seed, rounding_rounds);
    for (int k = 0; k < 4; ++k) shared.words[thread][k] = words.word[k];
  }

  static FASTOPT_DEVICE void update(const CudaPackedItem& item, const Piece& piece, Shared& shared,
                                    int thread) {
    constexpr Packets<1, 1> one{0, 1};
    const Bound bound = *reinterpret_cast<const Bound*>(shared.bound);
    const int64_t i = piece.begin + thread;
    V p = load_param(item, i), g, s[max_states];
    MixedArray(item, 1, i).load(one, &g);
    for_states<used>([&](auto state) { s[state.index] = load_state(item, state.index, piece, i); });
    bound.step(p, g, s);
    for_states<used>([&](auto state) {
      constexpr int k = state.index;
      const DType dtype = static_cast<DType>(item.dtypes[2 + k]);
      if (!is_code(dtype)) {
        const HalfDraws draws{read(item.dither_step), item.first + i, k};
        MixedArray(item, 2 + k, i).store(one, &s[k], draws);
      } else {
        shared.numbers[k][thread] = (dtype == DType::root8 ? sqrt(s[k]) : s[k]).value;
      }
    });
    if (item.arrays[ema_array] != nullptr) {
      const MixedArray ema(item, ema_array, i);
      V a;
      ema.load(one, &a);
      a = bound.averaged(a, p);
      ema.store(one, &a);
    }
    store_param(item, i, p, draw_of(item, piece, shared, thread));
  }

  static FASTOPT_DEVICE V load_param(const CudaPackedItem& item, int64_t i) {
    const void *param = item.arrays[0], *master = item.packing.master_data;
    switch (item.packing.master) {
      case Master::low_half:
        return joined(static_cast<const bfloat16*>(param)[i],
                      static_cast<const int16_t*>(master)[i]);
      case Master::whole:
        return restored(static_cast<const float16*>(param)[i],
                        static_cast<const float*>(master)[i]);
      case Master::stochastic:
        return to_float(static_cast<const bfloat16*>(param)[i]);
      default:
        V p;
        MixedArray(item, 0, i).load(Packets<1, 1>{0, 1}, &p);
        return p;
    }
  }

  static FASTOPT_DEVICE void store_param(const CudaPackedItem& item, int64_t i, V p,
                                         uint16_t draw) {
    void *param = item.arrays[0], *master = item.packing.master_data;
    switch (item.packing.master) {
      case Master::low_half:
        static_cast<bfloat16*>(param)[i] = split_float(p.value, static_cast<int16_t*>(master)[i]);
        return;
      case Master::whole:
        static_cast<float*>(master)[i] = p.value;
        static_cast<float16*>(param)[i] = to_float16(p.value);
        return;
      case Master::stochastic:
        static_cast<bfloat16*>(param)[i] = to_bfloat16(p.value, draw);
        return;
      default:
        MixedArray(item, 0, i).store(Packets<1, 1>{0, 1}, &p);
    }
  }

  static FASTOPT_DEVICE uint16_t draw_of(const CudaPackedItem& item, const Piece& piece,
                                         const Shared& shared, int thread) {
    if (item.packing.master != Master::stochastic) return 0;
    const int at = static_cast<int>((item.packing.index + piece.begin) % draws) + thread;
    return rounding_draw(shared.words[at / draws], at % draws);
  }

  static FASTOPT_DEVICE V load_state(const CudaPackedItem& item, int k, const Piece& piece,
                                     int64_t i) {
    const uint8_t* codes = static_cast<const uint8_t*>(item.arrays[2 + k]);
    switch (static_cast<DType>(item.dtypes[2 + k])) {
      case DType::signed8:
        return decoded<DType::signed8>(codes[i], item.packing.scales[k][piece.number]);
      case DType::root8:
        return decoded<DType::root8>(codes[i], item.packing.scales[k][piece.number]);
      default:
        V s;
        MixedArray(item, 2 + k, i).load(Packets<1, 1>{0, 1}, &s);
        return s;
    }
  }

  // The largest magnitude of every 16th number, by its bits.
  static FASTOPT_DEVICE void search(const Piece& piece, Shared& shared, int thread) {
    if (thread >= searchers) return;
    for_states<used>([&](auto state) {
      uint32_t largest = 0;
      for (int i = thread; i < piece.length; i += searchers) {
        const uint32_t magnitude = bits_of(shared.numbers[state.index][i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
      }
      shared.largest[state.index][thread] = largest;
    });
  }

  static FASTOPT_DEVICE void encode(const CudaPackedItem& item, const Piece& piece,
                                    const Shared& shared, int thread) {
    for_states<used>([&](auto state) {
      const DType dtype = static_cast<DType>(item.dtypes[2 + state.index]);
      if (dtype == DType::signed8) {
        store_code<DType::signed8>(item, state.index, piece, shared, thread);
      } else if (dtype == DType::root8) {
        store_code<DType::root8>(item, state.index, piece, shared, thread);
      }
    });
  }

  template <DType coding>
  static FASTOPT_DEVICE void store_code(const CudaPackedItem& item, int k, const Piece& piece,
                                        const Shared& shared, int thread) {
    const Packing& packing = item.packing;
    uint32_t largest = 0;
    for (int i = 0; i < searchers; ++i) {
      largest = shared.largest[k][i] > largest ? shared.largest[k][i] : largest;
    }
    const BlockScale scale = block_scale<coding>(largest);
    const float x = scale.inverse == 0 ? 0.0f : shared.numbers[k][thread];
    const int64_t number = piece.number + packing.first_row * pieces_of_row(packing.row);
    const uint32_t entry = (static_cast<uint32_t>(number) * dither_factor >> 24) + thread;
    uint8_t* const codes = static_cast<uint8_t*>(item.arrays[2 + k]);
    codes[piece.begin + thread] =
        encoded<coding>(x, scale.inverse, dither_entry<coding>(read(item.dither_step), entry));
    if (thread == 0) packing.scales[k][piece.number] = scale.scale;
  }
};

template <class Rule>
struct PackedKernels {
  using Table = PackedTable;
  template <unsigned used>
  using Of = PackedKernel<Rule, used>;
};

FASTOPT_TARGET_END
