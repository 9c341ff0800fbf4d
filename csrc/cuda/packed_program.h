// The CUDA kernel that interprets a program for parameters with a packing: as packed.h, a warp
// takes a piece of 256 elements and a lane eight of it, of which a few at a time go through its
// column of shared memory (program.h).
#pragma once

#include "cuda/divide.h"
#include "cuda/packed.h"
#include "cuda/pass.h"
#include "cuda/program.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr unsigned every_state = (1u << max_states) - 1;

FASTOPT_DEVICE void get_state(const Eight& bits, DType dtype, float scale, Eight::V* to) {
  if (dtype == DType::root8) return get_state<DType::root8>(bits, dtype, scale, to);
  get_state<DType::signed8>(bits, dtype, scale, to);
}

// Those of a lane's elements whose turn it is; all eight take `eight / width` turns. Numbers are
// chosen and never places, so that all stay in registers.
template <int width>
FASTOPT_DEVICE void take_turn(const Vec<float>* of_eight, int turn, Vec<float>* to) {
  for (int k = 0; k < width; ++k) to[k] = of_eight[k];
  for (int k = width; k < eight; ++k) {
    float& number = to[k % width].value;
    number = turn == k / width ? of_eight[k].value : number;
  }
}
template <int width>
FASTOPT_DEVICE void give_back(const Vec<float>* from, int turn, Vec<float>* of_eight) {
  for (int k = 0; k < eight; ++k) {
    float& number = of_eight[k].value;
    number = turn == k / width ? from[k % width].value : number;
  }
}

template <int width, int places>
class PackedProgramLane {
 public:
  using V = Vec<float>;
  using Its = Column<float, width, block_threads * width>;

  FASTOPT_DEVICE void load(const CudaPackedItem& item, int states, const Piece& piece,
                           const EightAt& at) {
    at_ = at;
    if (at.count == 0) return;
    EightParams<> param;
    Eight grad, bits[max_states];
    float scales[max_states] = {};
    param.load_from(item, at);
    fastopt::FASTOPT_TARGET::load(item, 1, at, grad);
    for_states<every_state>([&](auto state) {
      constexpr int k = state.index;
      if (k >= states) return;
      load_state(item, k, at, bits[k]);
      scales[k] = is_code(dtype_of(item, 2 + k)) ? item.packing.scales[k][piece.number()] : 0;
    });
    if (item.arrays[ema_array] != nullptr) {
      fastopt::FASTOPT_TARGET::load(item, ema_array, at, ema_);
    }
    param.get_numbers(item, param_);
    grad.get_numbers(dtype_of(item, 1), grad_);
    for_states<every_state>([&](auto state) {
      constexpr int k = state.index;
      if (k < states) get_state(bits[k], dtype_of(item, 2 + k), scales[k], states_[k]);
    });
  }

  template <class Shared>
  FASTOPT_DEVICE void execute(const PackedProgramTable& table, const Shared& shared,
                              const Its& column) {
    if (at_.count == 0) return;
    const int states = table.arrays - 2;
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int turn = 0; turn < eight / width; ++turn) {
      V v[width];
      take_turn<width>(param_, turn, v);
      column.put(v, 0);
      take_turn<width>(grad_, turn, v);
      for (V& its : v) its = V(shared.factor) * its;
      column.put(v, 1);
      for_states<every_state>([&](auto state) {
        if (state.index >= states) return;
        take_turn<width>(states_[state.index], turn, v);
        column.put(v, 2 + state.index);
      });
      column.execute(table.code, table.length, shared.numbers);
      column.get(0, v);
      give_back<width>(v, turn, param_);
      for_states<every_state>([&](auto state) {
        if (state.index >= states) return;
        column.get(2 + state.index, v);
        give_back<width>(v, turn, states_[state.index]);
      });
    }
  }

  // All but codes.
  template <class Shared>
  FASTOPT_DEVICE void store(const PackedProgramTable& table, const CudaPackedItem& item,
                            const Shared& shared, const HashedDither& dither) const {
    if (at_.count == 0) return;
    for_states<every_state>([&](auto state) {
      constexpr int k = state.index;
      if ((table.written >> (2 + k) & 1) == 0 || is_code(dtype_of(item, 2 + k))) return;
      store_state(item, k, at_, states_[k], dither);
    });
    if (item.arrays[ema_array] != nullptr) {
      V average[eight];
      ema_.get_numbers(dtype_of(item, ema_array), average);
      for (int k = 0; k < eight; ++k) {
        average[k] = V(shared.decay) * average[k] + V(shared.growth) * param_[k];
      }
      store_numbers(item, ema_array, at_, average);
    }
    EightParams<>::store_numbers(item, at_, param_);
  }

  template <DType coding, int state>
  FASTOPT_DEVICE uint32_t measure() {
    return measure_state<coding>(at_.count, states_[state]);
  }
  template <DType coding, int state>
  FASTOPT_DEVICE void encode(const CudaPackedItem& item, const Piece& piece, int lane,
                             uint32_t largest, const HashedDither& dither) const {
    if (at_.count == 0) return;
    const BlockScale scale = block_scale<coding>(largest);
    store_codes<coding>(item.arrays[2 + state], at_, states_[state], scale, dither,
                        dither_place(item, piece) + eight * lane);
    if (lane == 0) item.packing.scales[state][piece.number()] = scale.scale;
  }

 private:
  EightAt at_;
  Eight ema_;
  V param_[eight], grad_[eight], states_[max_states][eight];
};

template <int width, int places>
struct PackedProgramKernel {
  using Args = PackedProgramTable;
  using Lane = PackedProgramLane<width, places>;
  static constexpr int resident = 1;  // eight elements of each array are half of the registers

  struct Shared {
    PackedBlock its;
    float factor, decay, growth;
    ProgramNumbers<float> numbers;
    alignas(16) float place[places][block_threads][width];
  };

  static FASTOPT_DEVICE void run(const Args& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread != 0) return;
      shared.its.find(table, block.index, chunk_size);
      if (!is_due(table, shared.its.item)) shared.its.last = shared.its.first;
      shared.factor = static_cast<float>(read(table.grad_factor));
      shared.decay = static_cast<float>(table.ema_decay);
      shared.growth = static_cast<float>(1 - table.ema_decay);
    });
    block.each([&](int thread) { read_numbers(table, shared.its.item, thread, shared.numbers); });
    const CudaPackedItem& item = table.items[shared.its.item];
    block.each_warp([&](const Warp& warp) {
      const HashedDither dither({}, shared.its.dither_step);
      shared.its.each_piece(
          item, warp, [&](const Piece& piece) { step(table, item, piece, dither, shared, warp); });
    });
  }

 private:
  static FASTOPT_DEVICE void step(const Args& table, const CudaPackedItem& item, const Piece& piece,
                                  const HashedDither& dither, Shared& shared, const Warp& warp) {
    Own<Lane> lanes;
    warp.each([&](int lane) {
      lanes[lane].load(item, table.arrays - 2, piece, piece.of_lane(lane, shared.its.at_once));
      lanes[lane].execute(table, shared,
                          typename Lane::Its(shared.place[0][warp.number * warp_threads + lane]));
      lanes[lane].store(table, item, shared, dither);
    });
    if (item.packing.row == 0) return;
    for_states<every_state>([&](auto state) {
      if (state.index >= table.arrays - 2) return;
      const DType dtype = dtype_of(item, 2 + state.index);
      if (dtype == DType::root8)
        encode<DType::root8, state.index>(item, piece, dither, lanes, warp);
      if (dtype == DType::signed8) {
        encode<DType::signed8, state.index>(item, piece, dither, lanes, warp);
      }
    });
  }

  template <DType coding, int state>
  static FASTOPT_DEVICE void encode(const CudaPackedItem& item, const Piece& piece,
                                    const HashedDither& dither, Own<Lane>& lanes,
                                    const Warp& warp) {
    Own<uint32_t> largest;
    warp.each([&](int lane) { largest[lane] = lanes[lane].template measure<coding, state>(); });
    warp.spread_largest(largest);
    warp.each([&](int lane) {
      lanes[lane].template encode<coding, state>(item, piece, lane, largest[lane], dither);
    });
  }
};

// What an element's arrays stand for, for a pass.
template <class T, class Array, class Its>
FASTOPT_DEVICE void load_element(const CudaPackedItem& item, int64_t begin, int i, int arrays,
                                 T factor, const Its& column) {
  const EightAt at{begin + i, 1, 0};
  Vec<float> numbers[eight];
  EightParams<> param;
  param.load_from(item, at);
  param.get_numbers(item, numbers);
  column.put(numbers, 0);
  Eight bits;
  load(item, 1, at, bits);
  bits.get_numbers(dtype_of(item, 1), numbers);
  numbers[0] = Vec<float>(factor) * numbers[0];
  column.put(numbers, 1);
  const int64_t row = row_of(item), in_rows = quotient(at.first, row);
  const int64_t block = in_rows * pieces_of_row(row) + (at.first - in_rows * row) / block_size;
  for (int k = 0; k < arrays - 2; ++k) {
    const DType dtype = dtype_of(item, 2 + k);
    load_state(item, k, at, bits);
    get_state(bits, dtype, is_code(dtype) ? item.packing.scales[k][block] : 0, numbers);
    column.put(numbers, 2 + k);
  }
}

FASTOPT_TARGET_END
