// The loop for whatever a Packing says: parameters with masters, rounded at random, with codes.
//
// A buffer's length of elements is unpacked to the first-level cache, the rule's inner kernel works
// on that, and what it has written is packed again, unless it is a pass that leaves sums and writes
// nothing. So rules and other loops know nothing of packings.
#pragma once

#include <stdint.h>

#include "cpu/blocks.h"
#include "cpu/kernel.h"
#include "numeric/code8.h"
#include "numeric/split.h"
#include "rules/program.h"
#include "simd/rounding_draws.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int buffer_size = 1024;

class PackedLoop {
 public:
  FASTOPT_HOST_DEVICE explicit PackedLoop(const Item& item)
      : item_(item),
        packing_(*item.packing),
        measures_(item.pass != nullptr && item.pass->summands != nullptr),
        unpacked_(item) {
    if (measures_) unpacked_.pass = &pass_;
    if (packing_.master != Master::none) set_buffer(0, param_);
    for (int state = 0; state < max_states; ++state) {
      if (is_coded(state)) set_buffer(2 + state, states_[state]);
    }
  }

  FASTOPT_HOST_DEVICE void run(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      int64_t count = end - i < buffer_size ? end - i : buffer_size;
      if (packing_.row > 0) {
        const int64_t rest_of_row = packing_.row - i % packing_.row;
        if (rest_of_row < count) count = rest_of_row;
      }
      if (measures_) {
        for (int k = 0; k < max_summands; ++k) {
          summands_[k] = static_cast<float*>(item_.pass->summands[k]) + (i - begin);
        }
      }
      step(i, static_cast<int>(count));
      i += count;
    }
  }

 private:
  FASTOPT_HOST_DEVICE bool is_coded(int state) const { return is_code(item_.dtypes[2 + state]); }

  FASTOPT_HOST_DEVICE void set_buffer(int array, float* buffer) {
    unpacked_.arrays[array] = buffer;
    unpacked_.dtypes[array] = DType::float32;
  }

  FASTOPT_HOST_DEVICE void step(int64_t i, int count) {
    for (int array = 0; array < max_arrays; ++array) {
      char* const data = static_cast<char*>(item_.arrays[array]);
      const DType dtype = item_.dtypes[array];
      if (data == nullptr || unpacked_.dtypes[array] != dtype) continue;  // or a buffer
      unpacked_.arrays[array] = data + i * dtype_bytes[static_cast<int>(dtype)];
    }
    unpacked_.rounding.first = item_.rounding.first + i;
    if (packing_.master != Master::none) unpack_param(i, count);
    for (int state = 0; state < max_states; ++state) {
      if (is_coded(state)) decode_state(state, i, count);
    }
    item_.inner(unpacked_, 0, count);
    if (measures_) return;
    if (packing_.master != Master::none) pack_param(i, count);
    for (int state = 0; state < max_states; ++state) {
      if (is_coded(state)) encode_state(state, i, count);
    }
  }

  FASTOPT_HOST_DEVICE void unpack_param(int64_t i, int count) {
    if (packing_.master == Master::whole) return unpack_whole(i, count);
    const bfloat16* hi = static_cast<const bfloat16*>(item_.arrays[0]) + i;
    if (packing_.master == Master::stochastic) {
      for (int k = 0; k < count; ++k) param_[k] = to_float(hi[k]);
      return;
    }
    const int16_t* lo = static_cast<const int16_t*>(packing_.master_data) + i;
    for (int k = 0; k < count; ++k) param_[k] = joined(hi[k], lo[k]);
  }

  FASTOPT_HOST_DEVICE void unpack_whole(int64_t i, int count) {
    const float* master = static_cast<const float*>(packing_.master_data) + i;
    const float16* param = static_cast<const float16*>(item_.arrays[0]) + i;
    for (int k = 0; k < count; ++k) param_[k] = restored(param[k], master[k]);
  }

  FASTOPT_HOST_DEVICE void pack_param(int64_t i, int count) {
    if (packing_.master == Master::whole) {
      float* master = static_cast<float*>(packing_.master_data) + i;
      float16* param = static_cast<float16*>(item_.arrays[0]) + i;
      for (int k = 0; k < count; ++k) {
        master[k] = param_[k];
        param[k] = to_float16(param_[k]);
      }
      return;
    }
    bfloat16* hi = static_cast<bfloat16*>(item_.arrays[0]) + i;
    if (packing_.master == Master::stochastic) {
      RoundingDraws draws(packing_.seed, packing_.offset, packing_.index + i);
      for (int k = 0; k < count; k += RoundingDraws::at_once) draws.next(draws_ + k);
      for (int k = 0; k < count; ++k) hi[k] = to_bfloat16(param_[k], draws_[k]);
      return;
    }
    int16_t* lo = static_cast<int16_t*>(packing_.master_data) + i;
    for (int k = 0; k < count; ++k) hi[k] = split_float(param_[k], lo[k]);
  }

  // Of `count` elements from i on, which a pass that measures may begin and end within a block.
  template <class Act>
  FASTOPT_HOST_DEVICE void for_blocks(int state, int64_t i, int count, Act act) {
    for (int k = 0; k < count;) {
      const int length = block_length(item_, i + k, i + count);
      act(block_at(item_, state, i + k), states_[state] + k, length);
      k += length;
    }
  }

  FASTOPT_HOST_DEVICE void decode_state(int state, int64_t i, int count) {
    const bool is_root = item_.dtypes[2 + state] == DType::root8;
    for_blocks(state, i, count, [is_root](const Block& block, float* numbers, int length) {
      if (is_root) {
        decode<DType::root8>(block.codes, *block.scale, numbers, length);
      } else {
        decode<DType::signed8>(block.codes, *block.scale, numbers, length);
      }
    });
  }

  FASTOPT_HOST_DEVICE void encode_state(int state, int64_t i, int count) {
    const bool is_root = item_.dtypes[2 + state] == DType::root8;
    for_blocks(state, i, count, [is_root](const Block& block, float* numbers, int length) {
      if (is_root) {
        for (int k = 0; k < length; ++k) numbers[k] = __builtin_sqrtf(numbers[k]);
        encode_block<DType::root8>(block, numbers, length);
      } else {
        encode_block<DType::signed8>(block, numbers, length);
      }
    });
  }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void encode_block(const Block& block, float* numbers, int length) {
    const BlockScale scale = measure<coding>(numbers, length);
    *block.scale = scale.scale;
    encode<coding>(numbers, scale.inverse, block.dither, block.codes, length);
  }

  const Item& item_;
  const Packing& packing_;
  const bool measures_;
  void* summands_[max_summands];  // of the buffer
  const Pass pass_ = {summands_};
  Item unpacked_;
  alignas(64) float param_[buffer_size];
  alignas(64) float states_[max_states][buffer_size];
  alignas(64) uint16_t draws_[buffer_size];
};

[[maybe_unused]] void run_packed(const Item& item, int64_t begin, int64_t end) {
  PackedLoop(item).run(begin, end);
}

FASTOPT_TARGET_END
