// The CUDA kernel of parameters with a packing (cpu/packing.h).
//
// A parameter is cut into pieces of 256 elements within its rows, as the blocks of states in 8 bits
// are. A warp takes a piece at a time, a lane eight adjoining elements of it (cuda/eight.h), and
// its threads need of each other but the largest magnitudes of which the scales are made. At the
// ends of rows, and where arrays are not aligned to what is loaded at once, a lane goes element by
// element.
#pragma once

#include <new>
#include <type_traits>

#include "cuda/divide.h"
#include "cuda/eight.h"
#include "cuda/launch.h"
#include "cuda/stored.h"
#include "cuda/table.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

static_assert(block_size == eight * warp_threads);
static_assert(chunk_size % (block_warps * block_size) == 0);

FASTOPT_HOST_DEVICE int64_t row_of(const CudaPackedItem& item) {
  return item.packing.row > 0 ? item.packing.row : item.size;
}
FASTOPT_HOST_DEVICE int64_t pieces_of_row(int64_t row) {
  return (row + block_size - 1) / block_size;
}

// An item's chunks, of so many elements where its rows are no shorter than its pieces.
inline int64_t chunks_of(const CudaPackedItem& item, int size = chunk_size) {
  const int64_t row = row_of(item), pieces = item.size / row * pieces_of_row(row);
  const int64_t at_once = size / block_size;
  return (pieces + at_once - 1) / at_once;
}

// Whether lanes may take the elements of full pieces at once.
FASTOPT_DEVICE bool takes_eights(const CudaPackedItem& item) {
  bool takes = item.packing.row % eight == 0;
  for (int array = 0; array < max_arrays; ++array) {
    takes = takes && takes_eights(item.arrays[array], bytes_of(dtype_of(item, array)));
  }
  return takes && takes_eights(item.packing.master_data, EightParams<>::master_bytes(item));
}

// Up to block_size elements of a row, counted through over all rows.
class Piece {
 public:
  FASTOPT_DEVICE Piece(const CudaPackedItem& item, int64_t number) : number_(number) {
    const int64_t row = row_of(item), pieces = pieces_of_row(row), rows = quotient(number, pieces);
    begin_ = (number - rows * pieces) * block_size + rows * row;
    rest_ = (rows + 1) * row - begin_;
  }

  FASTOPT_DEVICE void next(const CudaPackedItem& item) {
    ++number_;
    begin_ += rest_ < block_size ? rest_ : block_size;
    rest_ = rest_ <= block_size ? row_of(item) : rest_ - block_size;
  }

  FASTOPT_DEVICE int64_t number() const { return number_; }
  FASTOPT_DEVICE EightAt of_lane(int lane, bool at_once) const {
    const int64_t rest = rest_ - eight * lane;
    const int count = rest >= eight ? eight : rest > 0 ? static_cast<int>(rest) : 0;
    return {begin_ + eight * lane, count, opaque(at_once && count == eight)};
  }

 private:
  int64_t number_, begin_, rest_;  // begin: the first element; rest: of the row
};

// A block's pieces of an item, and what all of its lanes must know.
struct PackedBlock {
  int item, of_warp;  // of_warp: pieces
  bool at_once;
  int64_t first, last;  // pieces
  double dither_step;

  // `size`: elements of a chunk.
  template <class Table>
  FASTOPT_DEVICE void find(const Table& table, int64_t chunk, int size) {
    const int pieces_at_once = size / static_cast<int>(block_size);
    of_warp = pieces_at_once / block_warps;
    item = entry_at(table.items, table.count, chunk);
    const CudaPackedItem& its = table.items[item];
    const int64_t row = row_of(its), pieces = its.size / row * pieces_of_row(row);
    first = (chunk - its.first_chunk) * pieces_at_once;
    const int64_t behind = first + pieces_at_once;
    last = behind < pieces ? behind : pieces;
    if (table.found_inf != nullptr && *table.found_inf != 0) last = first;
    at_once = takes_eights(its);
    dither_step = read(its.dither_step);
  }

  // act(piece) for those of a warp.
  template <class Act>
  FASTOPT_DEVICE void each_piece(const CudaPackedItem& its, const Warp& warp, Act act) const {
    const int64_t from = first + warp.number * of_warp, behind = from + of_warp;
    const int64_t to = behind < last ? behind : last;
    for (Piece piece(its, from); piece.number() < to; piece.next(its)) act(piece);
  }
};

// Which of the dither's entries a piece's first code takes.
FASTOPT_DEVICE uint32_t dither_place(const CudaPackedItem& item, const Piece& piece) {
  const int64_t block = piece.number() + item.packing.first_row * pieces_of_row(item.packing.row);
  return static_cast<uint32_t>(block) * dither_factor >> 24;
}

// A lane's elements of a piece.
template <class Rule, unsigned used, class Storage>
class PackedLane {
 public:
  using V = Vec<float>;
  using Bound = Update<Rule, float, used>;
  using Dither = typename Storage::Dither;
  template <int state>
  FASTOPT_DEVICE static constexpr DType coding() {
    return (Rule::squares >> state & 1) != 0 ? DType::root8 : DType::signed8;
  }

  FASTOPT_DEVICE void load(const CudaPackedItem& item, const Piece& piece, const EightAt& at) {
    at_ = at;
    param_.load_from(item, at);
    fastopt::FASTOPT_TARGET::load<Storage>(item, 1, at, grad_);
    for_states<used>([&](auto state) {
      constexpr int k = state.index;
      load_state<Storage>(item, k, at, states_[k]);
      if (is_code(Storage::dtype(item, 2 + k))) scales_[k] = item.packing.scales[k][piece.number()];
    });
    if (asks_early && item.arrays[ema_array] != nullptr) load_average(item);
  }

  // Steps, and stores all but codes.
  FASTOPT_DEVICE void step(const CudaPackedItem& item, const Bound& its, const Dither& dither) {
    const Bound bound = its;  // not kept from piece to piece, for want of registers
    V p[eight], g[eight];
    param_.get_numbers(item, p);
    grad_.get_numbers(Storage::dtype(item, 1), g);
    for_states<used>([&](auto state) {
      constexpr int k = state.index;
      get_state<coding<k>()>(states_[k], Storage::dtype(item, 2 + k), scales_[k], numbers_[k]);
    });
    for (int i = 0; i < eight; ++i) {
      V of_one[max_states];
      for_states<used>([&](auto state) { of_one[state.index] = numbers_[state.index][i]; });
      bound.step(p[i], g[i], of_one);
      for_states<used>([&](auto state) { numbers_[state.index][i] = of_one[state.index]; });
    }
    if constexpr (Storage::has_numbers) {
      for_states<used>([&](auto state) {
        if (is_code(Storage::dtype(item, 2 + state.index))) return;
        store_state<Storage>(item, state.index, at_, numbers_[state.index], dither);
      });
    }
    if (item.arrays[ema_array] != nullptr) average(item, bound, p);
    EightParams<Storage>::store_numbers(item, at_, p);
  }

  // The bits of the largest magnitude that a code of a state is to hold.
  template <int state>
  FASTOPT_DEVICE uint32_t measure() {
    return measure_state<coding<state>()>(at_.count, numbers_[state]);
  }

  // Codes and, by the first lane, their scale. `entry`: which of the dither's is the piece's first.
  template <int state>
  FASTOPT_DEVICE void encode(const CudaPackedItem& item, const Piece& piece, int lane,
                             uint32_t largest, const Dither& dither, uint32_t entry) const {
    const BlockScale scale = block_scale<coding<state>()>(largest);
    store_codes<coding<state>()>(item.arrays[2 + state], at_, numbers_[state], scale, dither,
                                 entry + eight * lane);
    if (lane == 0) item.packing.scales[state][piece.number()] = scale.scale;
  }

 private:
  // Where registers are many enough to hold it beside all else.
  static constexpr bool asks_early = std::is_same_v<Storage, AnyStorage>;
  FASTOPT_DEVICE void load_average(const CudaPackedItem& item) {
    fastopt::FASTOPT_TARGET::load<Storage>(item, ema_array, at_, ema_);
  }
  FASTOPT_DEVICE void average(const CudaPackedItem& item, const Bound& bound, const V* p) {
    if (!asks_early) load_average(item);
    V a[eight];
    ema_.get_numbers(Storage::dtype(item, ema_array), a);
    for (int i = 0; i < eight; ++i) a[i] = bound.averaged(a[i], p[i]);
    store_numbers<Storage>(item, ema_array, at_, a);
  }

  EightAt at_ = {};
  EightParams<Storage> param_;
  Eight grad_, ema_, states_[max_states];
  float scales_[max_states] = {};
  V numbers_[max_states][eight];
};

template <class Rule, unsigned used, class Storage>
struct PackedKernel {
  using Args = PackedTable;
  using Lane = PackedLane<Rule, used, Storage>;
  using Dither = typename Storage::Dither;
  using Bound = typename Lane::Bound;
  static constexpr int resident = Storage::resident(__builtin_popcount(used));

  struct Shared {
    alignas(Bound) unsigned char bound[sizeof(Bound)];
    PackedBlock its;
    typename Dither::Tables tables;
  };

  static FASTOPT_DEVICE void run(const PackedTable& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if constexpr (Dither::is_tabled) {
        const CudaItem& item = table.items[entry_at(table.items, table.count, block.index)];
        Dither::make(shared.tables, read(item.dither_step), thread);
      }
      if (thread != 0) return;
      shared.its.find(table, block.index, table.chunk);
      new (shared.bound) Bound(rule_of<Rule>(table, table.items[shared.its.item]),
                               read(table.grad_factor), table.ema_decay);
    });
    const CudaPackedItem& item = table.items[shared.its.item];
    block.each_warp([&](const Warp& warp) {
      const Bound& bound = *reinterpret_cast<const Bound*>(shared.bound);
      const Dither dither(shared.tables, shared.its.dither_step);
      shared.its.each_piece(item, warp, [&](const Piece& piece) {
        step(item, piece, bound, dither, shared.its.at_once, warp);
      });
    });
  }

 private:
  static FASTOPT_DEVICE void step(const CudaPackedItem& item, const Piece& piece,
                                  const Bound& bound, const Dither& dither, bool at_once,
                                  const Warp& warp) {
    Own<Lane> lanes;
    warp.each([&](int lane) {
      lanes[lane].load(item, piece, piece.of_lane(lane, at_once));
      lanes[lane].step(item, bound, dither);
    });
    if (Storage::has_numbers && item.packing.row == 0) return;
    if constexpr (Storage::has_codes) encode(item, piece, dither, lanes, warp);
  }

  static FASTOPT_DEVICE void encode(const CudaPackedItem& item, const Piece& piece,
                                    const Dither& dither, Own<Lane>& lanes, const Warp& warp) {
    const uint32_t entry = dither_place(item, piece);
    for_states<used>([&](auto state) {
      constexpr int k = state.index;
      if (!is_code(Storage::dtype(item, 2 + k))) return;
      Own<uint32_t> largest;
      warp.each([&](int lane) { largest[lane] = lanes[lane].template measure<k>(); });
      warp.spread_largest(largest);
      warp.each([&](int lane) {
        lanes[lane].template encode<k>(item, piece, lane, largest[lane], dither, entry);
      });
    });
  }
};

template <class Rule, class Storage = AnyStorage>
struct PackedKernels {
  using Table = PackedTable;
  static constexpr int chunk = chunk_size;
  // Tables of dither are a tenth of a block's instructions; what has codes waits for those.
  static constexpr int longer = Storage::has_codes && Storage::Dither::is_tabled ? 4 : 1;
  template <unsigned used>
  using Of = PackedKernel<Rule, used, Storage>;
};

FASTOPT_TARGET_END
