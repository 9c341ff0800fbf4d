// What a parameter with a packing and its states are stored in (cpu/packing.h): eight elements of
// each, loaded as they are, made numbers of, and stored again.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "cuda/draws.h"
#include "cuda/eight.h"
#include "cuda/face.h"
#include "numeric/code8.h"
#include "numeric/dither.h"
#include "numeric/split.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

FASTOPT_DEVICE DType dtype_of(const CudaItem& item, int array) {
  return static_cast<DType>(item.dtypes[array]);
}
FASTOPT_DEVICE int bytes_of(DType dtype) {
  return is_code(dtype) ? 1 : dtype == DType::float32 ? 4 : 2;
}

// How arrays are stored: as each item says.
struct AnyStorage {
  using Dither = HashedDither;
  static constexpr bool has_codes = true, has_numbers = true;  // among its states
  static constexpr int resident(int) { return 2; }             // blocks, for so many states
  FASTOPT_DEVICE static DType dtype(const CudaItem& item, int array) {
    return dtype_of(item, array);
  }
  FASTOPT_DEVICE static Master master(const CudaPackedItem& item) { return item.packing.master; }
};

// Blocks on a multiprocessor: as many as no kernel keeps a number in memory for.
constexpr int blocks_of_known(int states_kept) {
  if (fewer_blocks > 0) return states_kept > 0 ? 2 : 3;
  return states_kept > 2 ? 2 : states_kept > 1 ? 3 : 4;
}

// A bfloat16 parameter with lower halves behind it, and no codes.
struct SplitStorage : AnyStorage {
  static constexpr bool has_codes = false;
  static constexpr int resident(int states_kept) {
    return blocks_of_known(states_kept > 2 ? states_kept : 2);  // numbers of two kinds at least
  }
  FASTOPT_DEVICE static DType dtype(const CudaItem& item, int array) {
    return array == 0 ? DType::bfloat16 : dtype_of(item, array);
  }
  FASTOPT_DEVICE static constexpr Master master(const CudaPackedItem&) { return Master::low_half; }
};

// As the compiler knows: all states in one way, and the other arrays in one. signed8 stands for the
// codes of both kinds, which the rule tells apart.
template <DType numbers, DType states, Master behind>
struct OneStorage {
  static_assert(states == DType::signed8 || states == DType::bfloat16);
  static constexpr bool has_codes = states == DType::signed8, has_numbers = !has_codes;
  using Dither = std::conditional_t<has_codes, TabledCodes, TabledHalves>;
  static constexpr int resident(int states_kept) { return blocks_of_known(states_kept); }
  FASTOPT_DEVICE static constexpr DType dtype(const CudaItem&, int array) {
    return array < 2 || array == ema_array ? numbers : states;
  }
  FASTOPT_DEVICE static constexpr Master master(const CudaPackedItem&) { return behind; }
};

// An array that is there, and has no codes.
template <class Storage = AnyStorage>
FASTOPT_DEVICE void load(const CudaItem& item, int array, const EightAt& at, Eight& to) {
  to.load(item.arrays[array], bytes_of(Storage::dtype(item, array)), at);
}
template <class Storage = AnyStorage>
FASTOPT_DEVICE void store(const CudaItem& item, int array, const EightAt& at, const Eight& from) {
  from.store(item.arrays[array], bytes_of(Storage::dtype(item, array)), at);
}
template <class Storage = AnyStorage>
FASTOPT_DEVICE void store_numbers(const CudaItem& item, int array, const EightAt& at,
                                  const Eight::V* from) {
  Eight bits;
  bits.set_numbers(Storage::dtype(item, array), from);
  store<Storage>(item, array, at, bits);
}

// A parameter and what stands behind it.
template <class Storage = AnyStorage>
struct EightParams {
  using V = Eight::V;
  Eight param, master;

  FASTOPT_DEVICE void load_from(const CudaPackedItem& item, const EightAt& at) {
    load<Storage>(item, 0, at, param);
    if (const int bytes = master_bytes(item)) master.load(item.packing.master_data, bytes, at);
  }

  FASTOPT_DEVICE void get_numbers(const CudaPackedItem& item, V* to) const {
    if (Storage::master(item) == Master::low_half) {
      for (int k = 0; k < eight; ++k) {
        to[k] = joined(bfloat16{param.half(k)}, static_cast<int16_t>(master.half(k)));
      }
    } else if (Storage::master(item) == Master::whole) {
      for (int k = 0; k < eight; ++k) {
        to[k] = restored(float16{param.half(k)}, float_of(master.word(k)));
      }
    } else {
      param.get_numbers(Storage::dtype(item, 0), to);
    }
  }

  FASTOPT_DEVICE static void store_numbers(const CudaPackedItem& item, const EightAt& at,
                                           const V* from) {
    EightParams bits;
    if (Storage::master(item) == Master::low_half) {
      for (int k = 0; k < eight; ++k) {
        int16_t low;
        bits.param.set(k, split_float(from[k].value, low).bits);
        bits.master.set(k, static_cast<uint16_t>(low));
      }
    } else if (Storage::master(item) == Master::stochastic) {
      const EightDraws draws = draws_of(item, at);
      for (int k = 0; k < eight; ++k) {
        bits.param.set(k, to_bfloat16(from[k].value, draws[k]).bits);
      }
    } else {
      if (Storage::master(item) == Master::whole) bits.master.set_numbers(DType::float32, from);
      bits.param.set_numbers(Storage::dtype(item, 0), from);
    }
    store<Storage>(item, 0, at, bits.param);
    if (const int bytes = master_bytes(item)) {
      bits.master.store(item.packing.master_data, bytes, at);
    }
  }

  FASTOPT_DEVICE static int master_bytes(const CudaPackedItem& item) {
    return Storage::master(item) == Master::low_half ? 2
           : Storage::master(item) == Master::whole  ? 4
                                                     : 0;
  }

 private:
  FASTOPT_DEVICE static EightDraws draws_of(const CudaPackedItem& item, const EightAt& at) {
    const Packing& packing = item.packing;
    const bool on_device = item.rounding != nullptr;
    return EightDraws::random(on_device ? item.rounding[0] : packing.seed,
                              packing.offset + (on_device ? item.rounding[1] : 0),
                              packing.index + at.first);
  }
};

// A state in 8, 16 or 32 bits.
template <class Storage = AnyStorage>
FASTOPT_DEVICE void load_state(const CudaItem& item, int state, const EightAt& at, Eight& to) {
  if (is_code(Storage::dtype(item, 2 + state))) return to.load_codes(item.arrays[2 + state], at);
  load<Storage>(item, 2 + state, at, to);
}

// `coding`: the code that it is if it has 8.
template <DType coding>
FASTOPT_DEVICE void get_state(const Eight& bits, DType dtype, float scale, Eight::V* to) {
  if (!is_code(dtype)) return bits.get_numbers(dtype, to);
  for (int k = 0; k < eight; ++k) to[k] = decoded<coding>(bits.byte(k), scale);
}

// One in 16 or 32 bits.
template <class Storage = AnyStorage, class Dither>
FASTOPT_DEVICE void store_state(const CudaItem& item, int state, const EightAt& at,
                                const Eight::V* from, const Dither& dither) {
  const DType dtype = Storage::dtype(item, 2 + state);
  Eight bits;
  if (dtype == DType::float32) {
    bits.set_numbers(dtype, from);
  } else {
    const EightDraws draws = dither.of_halves(item.first + at.first, state);
    for (int k = 0; k < eight; ++k) {
      bits.set(k, dtype == DType::bfloat16 ? to_bfloat16(from[k].value, draws[k]).bits
                                           : to_float16(from[k].value, draws[k]).bits);
    }
  }
  store<Storage>(item, 2 + state, at, bits);
}

// The numbers that a code keeps, roots where it is root8, in place of a state's; their largest
// magnitude, by its bits.
template <DType coding>
FASTOPT_DEVICE uint32_t measure_state(int count, Eight::V* numbers) {
  uint32_t largest = 0;
  for (int k = 0; k < eight; ++k) {
    if (coding == DType::root8) numbers[k] = sqrt(numbers[k]);
    const uint32_t magnitude = bits_of(numbers[k].value) & 0x7fffffffu;
    largest = larger(largest, k < count ? magnitude : 0);
  }
  return largest;
}

// Codes of what measure_state leaves. `entry`: which of the dither's the first of them takes.
template <DType coding, class Dither>
FASTOPT_DEVICE void store_codes(void* codes, const EightAt& at, const Eight::V* numbers,
                                const BlockScale& scale, const Dither& dither, uint32_t entry) {
  alignas(16) uint32_t entries[eight];
  dither.template of_codes<coding>(entry, entries);
  Eight bits;
  for (int k = 0; k < eight; ++k) {
    const float x = scale.inverse == 0 ? 0.0f : numbers[k].value;
    bits.set(k, encoded<coding>(x, scale.inverse, entries[k]));
  }
  bits.store_codes(codes, at);
}

FASTOPT_TARGET_END
