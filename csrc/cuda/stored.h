// What a parameter with a packing and its states are stored in (cpu/packing.h): eight elements of
// each, loaded as they are, made numbers of, and stored again.
#pragma once

#include <stdint.h>

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

// An array that is there, and has no codes.
FASTOPT_DEVICE void load(const CudaItem& item, int array, const EightAt& at, Eight& to) {
  to.load(item.arrays[array], bytes_of(dtype_of(item, array)), at);
}
FASTOPT_DEVICE void store(const CudaItem& item, int array, const EightAt& at, const Eight& from) {
  from.store(item.arrays[array], bytes_of(dtype_of(item, array)), at);
}
FASTOPT_DEVICE void store_numbers(const CudaItem& item, int array, const EightAt& at,
                                  const Eight::V* from) {
  Eight bits;
  bits.set_numbers(dtype_of(item, array), from);
  store(item, array, at, bits);
}

// A parameter and what stands behind it.
struct EightParams {
  using V = Eight::V;
  Eight param, master;

  FASTOPT_DEVICE void load_from(const CudaPackedItem& item, const EightAt& at) {
    load(item, 0, at, param);
    if (const int bytes = master_bytes(item)) master.load(item.packing.master_data, bytes, at);
  }

  FASTOPT_DEVICE void get_numbers(const CudaPackedItem& item, V* to) const {
    if (item.packing.master == Master::low_half) {
      for (int k = 0; k < eight; ++k) {
        to[k] = joined(bfloat16{param.half(k)}, static_cast<int16_t>(master.half(k)));
      }
    } else if (item.packing.master == Master::whole) {
      for (int k = 0; k < eight; ++k) {
        to[k] = restored(float16{param.half(k)}, float_of(master.word(k)));
      }
    } else {
      param.get_numbers(dtype_of(item, 0), to);
    }
  }

  FASTOPT_DEVICE static void store_numbers(const CudaPackedItem& item, const EightAt& at,
                                           const V* from) {
    EightParams bits;
    if (item.packing.master == Master::low_half) {
      for (int k = 0; k < eight; ++k) {
        int16_t low;
        bits.param.set(k, split_float(from[k].value, low).bits);
        bits.master.set(k, static_cast<uint16_t>(low));
      }
    } else if (item.packing.master == Master::stochastic) {
      const EightDraws draws = draws_of(item, at);
      for (int k = 0; k < eight; ++k) {
        bits.param.set(k, to_bfloat16(from[k].value, draws[k]).bits);
      }
    } else {
      if (item.packing.master == Master::whole) bits.master.set_numbers(DType::float32, from);
      bits.param.set_numbers(dtype_of(item, 0), from);
    }
    store(item, 0, at, bits.param);
    if (const int bytes = master_bytes(item)) {
      bits.master.store(item.packing.master_data, bytes, at);
    }
  }

  FASTOPT_DEVICE static int master_bytes(const CudaPackedItem& item) {
    return item.packing.master == Master::low_half ? 2
           : item.packing.master == Master::whole  ? 4
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
FASTOPT_DEVICE void load_state(const CudaItem& item, int state, const EightAt& at, Eight& to) {
  if (is_code(dtype_of(item, 2 + state))) return to.load_codes(item.arrays[2 + state], at);
  load(item, 2 + state, at, to);
}

// `coding`: the code that it is if it has 8.
template <DType coding>
FASTOPT_DEVICE void get_state(const Eight& bits, DType dtype, float scale, Eight::V* to) {
  if (!is_code(dtype)) return bits.get_numbers(dtype, to);
  for (int k = 0; k < eight; ++k) to[k] = decoded<coding>(bits.byte(k), scale);
}

// One in 16 or 32 bits.
FASTOPT_DEVICE void store_state(const CudaItem& item, int state, const EightAt& at,
                                const Eight::V* from, DitherStep step) {
  const DType dtype = dtype_of(item, 2 + state);
  Eight bits;
  if (dtype == DType::float32) {
    bits.set_numbers(dtype, from);
  } else {
    const EightDraws draws = EightDraws::dithered(step, item.first + at.first, state);
    for (int k = 0; k < eight; ++k) {
      bits.set(k, dtype == DType::bfloat16 ? to_bfloat16(from[k].value, draws[k]).bits
                                           : to_float16(from[k].value, draws[k]).bits);
    }
  }
  store(item, 2 + state, at, bits);
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
template <DType coding>
FASTOPT_DEVICE void store_codes(void* codes, const EightAt& at, const Eight::V* numbers,
                                const BlockScale& scale, DitherStep step, uint32_t entry) {
  Eight bits;
  for (int k = 0; k < eight; ++k) {
    const float x = scale.inverse == 0 ? 0.0f : numbers[k].value;
    bits.set(k, encoded<coding>(x, scale.inverse, dither_entry<coding>(step, entry + k)));
  }
  bits.store_codes(codes, at);
}

FASTOPT_TARGET_END
