// Dropout: a thread draws for eight adjoining elements at a time, so that a byte of a mask is its
// own, and the eight draws of one block of random numbers are, too, where the first index is a
// multiple of eight. Else it draws two blocks. Of the elements themselves it takes packets of 16
// bytes, each beside the next thread's, so that a warp's accesses leave no gaps; the bits come from
// who drew them.
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

constexpr int warp_elements = warp_threads * eight;  // that a warp takes at once

// Of those that a warp takes at once, which a thread has: all eight, in accesses of 16 bytes, if
// the warp is whole.
template <class T, bool is_whole>
struct Share {
  static constexpr int size = 16 / sizeof(T);  // elements of a packet
  int lane;
  int count;  // of the warp's elements

  FASTOPT_DEVICE int first(int packet) const { return (packet * warp_threads + lane) * size; }
  FASTOPT_DEVICE int count_of(int packet) const { return part(first(packet), size); }
  FASTOPT_DEVICE int eights() const { return part(lane * eight, eight); }  // that it draws for

 private:
  FASTOPT_DEVICE int part(int from, int most) const {
    const int left = count - from;
    return is_whole || left > most ? most : left < 0 ? 0 : left;
  }
};

// A thread's elements as they are stored, packet by packet.
template <class T>
struct StoredEight {
  static constexpr int packet = 16 / sizeof(T), packets = eight / packet;
  using V = Vec<typename ComputeType<T>::type>;
  BitsOf<T, eight> bits = {};

  template <bool is_whole>
  FASTOPT_DEVICE void load(const T* from, const Share<T, is_whole>& its) {
    for (int i = 0; i < packets; ++i) load(i, from + its.first(i), its);
  }
  template <bool is_whole>
  FASTOPT_DEVICE void load(int i, const T* from, const Share<T, is_whole>& its) {
    if constexpr (is_whole) {
      __builtin_memcpy(place(i), aligned<16>(from), 16);
    } else {
      for (int k = 0; k < packet; ++k) {
        if (k < its.count_of(i)) bits.put(i * packet + k, V::load(from + k));
      }
    }
  }

  template <bool is_whole>
  FASTOPT_DEVICE void store(T* to, const Share<T, is_whole>& its) {
    for (int i = 0; i < packets; ++i) {
      T* const at = to + its.first(i);
      if constexpr (is_whole) {
        __builtin_memcpy(aligned<16>(at), place(i), 16);
      } else {
        for (int k = 0; k < packet; ++k) {
          if (k < its.count_of(i)) bits.get(i * packet + k).store(at + k);
        }
      }
    }
  }

 private:
  FASTOPT_DEVICE char* place(int i) { return reinterpret_cast<char*>(&bits) + 16 * i; }
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
  using Eight = StoredEight<T>;
  struct Shared {};
  // As many as no kernel keeps a number in memory for.
  static constexpr int resident = sizeof(T) == 8 ? 2 : Rule::has_bias || fewer_blocks > 0 ? 3 : 4;

  static FASTOPT_DEVICE void run(const CudaDropout& call, Shared&, const Block& block) {
    const Kept kept(call);
    const bool in_packets = is_aligned(call.x) && is_aligned(call.out) &&
                            is_aligned(call.residual) && takes_packets(call);
    const int64_t begin = block.index * eights_size, rest = call.size - begin;
    const int count = rest < eights_size ? static_cast<int>(rest) : eights_size;
    block.each_warp([&](const Warp& warp) {
      for (int i = warp.number * warp_elements; i < count; i += warp_stride) {
        const int left = count - i < warp_elements ? count - i : warp_elements;
        if (takes_two && in_packets && call.inner <= 1 &&
            i + warp_stride + warp_elements <= count) {
          take<true, false, 2>(call, kept, warp, begin + i, warp_elements);
          i += warp_stride;
        } else if (!in_packets || left != warp_elements) {
          take<false, true>(call, kept, warp, begin + i, left);
        } else if (call.inner > 1) {
          take<true, true>(call, kept, warp, begin + i, left);
        } else {
          take<true, false>(call, kept, warp, begin + i, left);
        }
      }
    });
  }

 private:
  static constexpr int warp_stride = block_threads * eight;
  // 16 bytes of each thread are too few on their way.
  static constexpr bool takes_two = sizeof(T) == 2 && !Rule::has_residual && !Rule::has_bias;

  // A warp's elements, and those so many strides behind them. Of packets that are dropped whole, as
  // rows are, x need not be read; else it is on its way while the bits are drawn.
  template <bool is_whole, bool draws_first, int shares = 1>
  static FASTOPT_DEVICE void take(const CudaDropout& call, const Kept& kept, const Warp& warp,
                                  int64_t begin, int count) {
    using Its = Share<T, is_whole>;
    const T* const x = static_cast<const T*>(call.x) + begin;
    Own<Eight> v[shares], r, b;
    if constexpr (!draws_first) {
      warp.each([&](int lane) {
        for (int n = 0; n < shares; ++n) v[n][lane].load(x + n * warp_stride, Its{lane, count});
      });
    }
    Own<uint32_t> drawn[shares];
    warp.each([&](int lane) {
      const Its its{lane, count};
      if constexpr (Rule::has_residual) {
        r[lane].load(static_cast<const T*>(call.residual) + begin, its);
      }
      if constexpr (Rule::has_bias) load_bias(call, begin, its, b[lane]);
      for (int n = 0; n < shares; ++n) {
        const int64_t first = begin + n * warp_stride + lane * eight;
        drawn[n][lane] = its.eights() == 0 ? 0 : kept.at(first, its.eights());
      }
    });
    const Rule rule(call.scalars);
    for (int share = 0; share < shares; ++share) {
      warp.each([&](int lane) {
        const Its its{lane, count};
        Eight result;
        for (int i = 0; i < Eight::packets; ++i) {
          const int first = its.first(i);
          const uint32_t bits =
              warp.of(drawn[share], first / eight) >> first % eight & ((1u << Eight::packet) - 1);
          if (draws_first && bits != 0) v[share][lane].load(i, x + first, its);
          for (int k = 0; k < Eight::packet; ++k) {
            const int n = i * Eight::packet + k;
            result.bits.put(n, rule((bits & 1u << k) != 0, v[share][lane].bits.get(n),
                                    b[lane].bits.get(n), r[lane].bits.get(n)));
          }
        }
        result.store(static_cast<T*>(call.out) + begin + share * warp_stride, its);
      });
    }
  }

  // A packet of the bias is in one row of it.
  static FASTOPT_DEVICE bool takes_packets(const CudaDropout& call) {
    return !Rule::has_bias || (is_aligned(call.bias) && call.columns % Eight::packet == 0);
  }

  template <bool is_whole>
  static FASTOPT_DEVICE void load_bias(const CudaDropout& call, int64_t begin,
                                       const Share<T, is_whole>& its, Eight& to) {
    const T* const bias = static_cast<const T*>(call.bias);
    for (int i = 0; i < Eight::packets; ++i) {
      int64_t column = remainder(begin + its.first(i), call.columns);
      if constexpr (is_whole) {
        to.load(i, bias + column, its);
      } else {
        for (int k = 0; k < Eight::packet; ++k) {
          if (k < its.count_of(i)) to.bits.put(i * Eight::packet + k, V::load(bias + column));
          if (++column == call.columns) column = 0;
        }
      }
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
