// Dropout: a thread takes eight adjoining elements at a time, so that a byte of a mask is its own,
// and the eight draws of one block of random numbers are, too, where the first index is a multiple
// of eight. Else it draws two blocks.
#pragma once

#include <stdint.h>

#include "cuda/divide.h"
#include "cuda/face.h"
#include "cuda/launch.h"
#include "numeric/half.h"
#include "numeric/philox.h"
#include "rules/dropout.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int eight = 8;
constexpr int eights_size = 4 * eight * block_threads;  // elements: a block's work

// Which of eight elements are kept, a bit each: read from the call's mask, or drawn; and stored, if
// that is asked for.
class Kept {
 public:
  FASTOPT_DEVICE explicit Kept(const CudaDropout& call)
      : call_(call),
        seed_(call.seed_at == nullptr ? call.seed : *call.seed_at),
        offset_(call.offset_at == nullptr ? call.offset
                                          : call.offset + (*call.offset_at & offset_mask)) {}

  // Of elements [i, i + count), i a multiple of eight.
  FASTOPT_DEVICE unsigned at(int64_t i, int count) const {
    const unsigned bits = source(i, count) & ((1u << count) - 1);
    if (call_.mask_out != nullptr) call_.mask_out[i / eight] = static_cast<unsigned char>(bits);
    return bits;
  }

 private:
  static constexpr uint64_t offset_mask = (uint64_t{1} << offset_bits) - 1;

  FASTOPT_DEVICE unsigned source(int64_t i, int count) const {
    if (call_.threshold == 0) return 0;
    if (call_.mask != nullptr) return call_.mask[i / eight];
    if (call_.threshold >= keep_all) return 0xff;
    return call_.inner > 1 ? of_rows(i, count) : of_elements(call_.index + i);
  }

  FASTOPT_DEVICE unsigned of_elements(uint64_t index) const {
    const uint64_t block = index / eight;
    const int skipped = static_cast<int>(index % eight);
    unsigned bits = of_block(block);
    if (skipped != 0) bits = (bits | of_block(block + 1) << eight) >> skipped;
    return bits;
  }

  FASTOPT_DEVICE unsigned of_rows(int64_t i, int count) const {
    const int64_t row = quotient(i, call_.inner);
    int64_t left = (row + 1) * call_.inner - i;  // of the row
    uint64_t index = call_.index + row;
    unsigned bits = 0, drawn = of_block(index / eight);
    for (int k = 0; k < count; ++k, --left) {
      if (left == 0) {
        left = call_.inner;
        if (++index % eight == 0) drawn = of_block(index / eight);
      }
      bits |= (drawn >> index % eight & 1) << k;
    }
    return bits;
  }

  FASTOPT_DEVICE unsigned of_block(uint64_t block) const {
    const Philox words(block, offset_, seed_, dropout_rounds);
    unsigned bits = 0;
    for (int j = 0; j < eight; ++j) bits |= unsigned{words.draw(j) < call_.threshold} << j;
    return bits;
  }

  const CudaDropout& call_;
  const uint64_t seed_, offset_;
};

// Up to eight adjoining elements, in accesses of 16 bytes where all arrays are aligned to that.
template <class T>
struct Eight {
  static constexpr int packet = 16 / sizeof(T);
  using V = Vec<typename ComputeType<T>::type>;
  int count;
  bool at_once;

  FASTOPT_DEVICE void load(const T* from, V* to) const {
    if (at_once) {
      for (int k = 0; k < eight; k += packet) {
        alignas(16) T elements[packet];
        __builtin_memcpy(elements, aligned<16>(from + k), sizeof elements);
        for (int j = 0; j < packet; ++j) to[k + j] = V::load(elements + j);
      }
    } else {
      for (int k = 0; k < eight; ++k) {
        if (k < count) to[k] = V::load(from + k);
      }
    }
  }

  FASTOPT_DEVICE void store(const V* from, T* to) const {
    if (at_once) {
      for (int k = 0; k < eight; k += packet) {
        alignas(16) T elements[packet];
        for (int j = 0; j < packet; ++j) from[k + j].store(elements + j);
        __builtin_memcpy(aligned<16>(to + k), elements, sizeof elements);
      }
    } else {
      for (int k = 0; k < eight; ++k) {
        if (k < count) from[k].store(to + k);
      }
    }
  }
};

// Whether what is there begins at a multiple of 16 bytes.
FASTOPT_DEVICE bool is_aligned(const void* array) {
  return reinterpret_cast<uintptr_t>(array) % 16 == 0;
}

// A block's elements, eight at a time: act(first, count).
template <class Act>
FASTOPT_DEVICE void for_eights(const CudaDropout& call, const Block& block, Act act) {
  const int64_t begin = block.index * eights_size, rest = call.size - begin;
  const int64_t end = begin + (rest < eights_size ? rest : eights_size);
  block.each([&](int thread) {
    for (int64_t i = begin + thread * eight; i < end; i += block_threads * eight) {
      act(i, end - i < eight ? static_cast<int>(end - i) : eight);
    }
  });
}

template <class T, DropoutForm form>
struct DropoutElements {
  using Args = CudaDropout;
  using Compute = typename ComputeType<T>::type;
  using Rule = Dropout<Compute, form>;
  using V = Vec<Compute>;
  struct Shared {};

  static FASTOPT_DEVICE void run(const CudaDropout& call, Shared&, const Block& block) {
    const Rule rule(call.scalars);
    const Kept kept(call);
    const T *const x = static_cast<const T*>(call.x), *const bias =
                                                          static_cast<const T*>(call.bias);
    const T* const residual = static_cast<const T*>(call.residual);
    T* const out = static_cast<T*>(call.out);
    const bool at_once = is_aligned(x) && is_aligned(out) && is_aligned(residual);
    const bool bias_at_once = is_aligned(bias) && call.columns % eight == 0;
    for_eights(call, block, [&](int64_t i, int count) {
      const Eight<T> at{count, at_once && count == eight};
      V v[eight], b[eight], r[eight];
      if (call.inner == 1) at.load(x + i, v);  // on its way while the bits are drawn
      if constexpr (Rule::has_residual) at.load(residual + i, r);
      if constexpr (Rule::has_bias) {
        load_bias(bias, call.columns, i, Eight<T>{count, bias_at_once && count == eight}, b);
      }
      const unsigned bits = kept.at(i, count);
      if (call.inner > 1 && bits != 0) at.load(x + i, v);  // a dropped row is not read
      for (int k = 0; k < eight; ++k) v[k] = rule((bits >> k & 1) != 0, v[k], b[k], r[k]);
      at.store(v, out + i);
    });
  }

 private:
  static FASTOPT_DEVICE void load_bias(const T* bias, int64_t columns, int64_t i, Eight<T> at,
                                       V* to) {
    int64_t column = remainder(i, columns);
    if (at.at_once) return at.load(bias + column, to);
    for (int k = 0; k < eight; ++k) {
      if (k < at.count) to[k] = V::load(bias + column);
      if (++column == columns) column = 0;
    }
  }
};

// Bits alone, to the call's mask_out.
struct MaskOfBits {
  using Args = CudaDropout;
  struct Shared {};
  static FASTOPT_DEVICE void run(const CudaDropout& call, Shared&, const Block& block) {
    const Kept kept(call);
    for_eights(call, block, [&](int64_t i, int count) { kept.at(i, count); });
  }
};

// One byte, 0 or 1, an element, to the call's out.
struct MaskOfBytes {
  using Args = CudaDropout;
  struct Shared {};
  static FASTOPT_DEVICE void run(const CudaDropout& call, Shared&, const Block& block) {
    const Kept kept(call);
    unsigned char* const out = static_cast<unsigned char*>(call.out);
    const bool at_once = reinterpret_cast<uintptr_t>(out) % eight == 0;
    for_eights(call, block, [&](int64_t i, int count) {
      const unsigned bits = kept.at(i, count);
      alignas(eight) unsigned char bytes[eight];
      for (int k = 0; k < eight; ++k) bytes[k] = bits >> k & 1;
      if (at_once && count == eight) {
        __builtin_memcpy(aligned<eight>(out + i), bytes, sizeof bytes);
      } else {
        for (int k = 0; k < eight; ++k) {
          if (k < count) out[i + k] = bytes[k];
        }
      }
    });
  }
};

FASTOPT_TARGET_END
