// Dropout: a thread takes eight adjoining elements at a time, so that a byte of a mask is its own,
// and the eight draws of one block of random numbers are, too, where the first index is a multiple
// of eight. Else it draws two blocks.
#pragma once

#include <stdint.h>

#include "cuda/arrays.h"
#include "cuda/divide.h"
#include "cuda/eight.h"
#include "cuda/face.h"
#include "cuda/launch.h"
#include "numeric/half.h"
#include "numeric/philox.h"
#include "rules/dropout.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

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

  // Two draws of a word are compared with the threshold at once, in the upper bit of each half.
  FASTOPT_DEVICE unsigned of_block(uint64_t block) const {
    const Philox words(block, offset_, seed_, dropout_rounds);
    unsigned kept = 0;
    for (int j = 0; j < eight / 2; ++j) {
      kept |= below_threshold(words.word[j]) >> (15 - 2 * j) & 0x00010001u << 2 * j;
    }
    return (kept & 0x55u) | (kept >> 15 & 0xaau);
  }

  // Without its upper bit a half is below the threshold's 15 bits where this difference has one
  // left; that, the half's own and the threshold's decide by a majority.
  FASTOPT_DEVICE uint32_t below_threshold(uint32_t draws) const {
    const uint32_t threshold = call_.threshold, twice = threshold | threshold << 16;
    const uint32_t rest = ((twice | 0x80008000u) - 0x00010001u) - (draws & 0x7fff7fffu);
    return (rest & ~draws) | (twice & (rest | ~draws));
  }

  const CudaDropout& call_;
  const uint64_t seed_, offset_;
};

// Up to eight adjoining elements as they are stored, in accesses of 16 bytes where all arrays are
// aligned to that.
template <class T>
struct StoredEight {
  static constexpr int packet = 16 / sizeof(T);
  using V = Vec<typename ComputeType<T>::type>;
  BitsOf<T, eight> bits = {};

  FASTOPT_DEVICE void load(const T* from, int count, bool at_once) {
    if (at_once) {
      for (int k = 0; k < eight; k += packet) {
        __builtin_memcpy(place(k), aligned<16>(from + k), 16);
      }
    } else {
      for (int k = 0; k < eight; ++k) {
        if (k < count) bits.put(k, V::load(from + k));
      }
    }
  }

  FASTOPT_DEVICE void store(T* to, int count, bool at_once) {
    if (at_once) {
      for (int k = 0; k < eight; k += packet) {
        __builtin_memcpy(aligned<16>(to + k), place(k), 16);
      }
    } else {
      for (int k = 0; k < eight; ++k) {
        if (k < count) bits.get(k).store(to + k);
      }
    }
  }

 private:
  FASTOPT_DEVICE char* place(int k) { return reinterpret_cast<char*>(&bits) + k * sizeof(T); }
};

// Whether what is there begins at a multiple of 16 bytes.
FASTOPT_DEVICE bool is_aligned(const void* array) {
  return reinterpret_cast<uintptr_t>(array) % 16 == 0;
}

// A block's elements, eight at a time: act(first, count).
template <class Act>
FASTOPT_DEVICE void for_eights(const CudaDropout& call, const Block& block, Act act) {
  const int64_t begin = block.index * eights_size, rest = call.size - begin;
  const int count = rest < eights_size ? static_cast<int>(rest) : eights_size;
  block.each([&](int thread) {
    for (int i = thread * eight; i < count; i += block_threads * eight) {
      act(begin + i, count - i < eight ? count - i : eight);
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
      const bool whole = at_once && count == eight;
      StoredEight<T> v, r, b, result;
      if (call.inner == 1) v.load(x + i, count, whole);  // on its way while the bits are drawn
      if constexpr (Rule::has_residual) r.load(residual + i, count, whole);
      if constexpr (Rule::has_bias) load_bias(bias, call.columns, i, count, bias_at_once, b);
      const unsigned kept_bits = kept.at(i, count);
      // A dropped row is not read.
      if (call.inner > 1 && kept_bits != 0) v.load(x + i, count, whole);
      for (int k = 0; k < eight; ++k) {
        const bool is_kept = (kept_bits & 1u << k) != 0;
        result.bits.put(k, rule(is_kept, v.bits.get(k), b.bits.get(k), r.bits.get(k)));
      }
      result.store(out + i, count, whole);
    });
  }

 private:
  static FASTOPT_DEVICE void load_bias(const T* bias, int64_t columns, int64_t i, int count,
                                       bool at_once, StoredEight<T>& to) {
    int64_t column = remainder(i, columns);
    if (at_once && count == eight) return to.load(bias + column, count, true);
    for (int k = 0; k < eight; ++k) {
      if (k < count) to.bits.put(k, V::load(bias + column));
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
