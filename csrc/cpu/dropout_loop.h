// Dropout's loops: a tile's bits are drawn or read, then its elements are kept or not by them.
//
// Tiles are short enough (1 KB of float32) that a processor draws for the next one while it waits
// for the memory of this one.
#pragma once

#include <stdint.h>

#include "cpu/dropout.h"
#include "numeric/half.h"
#include "rules/dropout.h"
#include "simd/draws.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

static_assert(tile == dropout_grain, "threads meet between tiles");

// The bits of a call's elements from `begin` on: read from its mask, if it has one, or drawn; and
// stored, if that is asked for.
class Bits {
 public:
  FASTOPT_HOST_DEVICE Bits(const DropoutCall& call, int64_t begin)
      : draws_(call.seed, call.offset, call.threshold, call.index + begin),
        mask_(call.threshold > 0 ? call.mask : nullptr),
        mask_out_(call.mask_out) {}

  // The bits of elements [i, i + count), count <= tile. Those past `count` may be anything.
  FASTOPT_HOST_DEVICE void next(int64_t i, int count, TileBits& bits) {
    const int bytes = (count + 7) / 8;
    if (mask_ != nullptr) {
      __builtin_memcpy(bits.bytes, mask_ + i / 8, bytes);
    } else {
      draws_.next(bits);
    }
    if (mask_out_ != nullptr) {
      if (count % 8 != 0) {
        bits.bytes[bytes - 1] =
            static_cast<unsigned char>(bits.bytes[bytes - 1] & ~(~0u << count % 8));
      }
      __builtin_memcpy(mask_out_ + i / 8, bits.bytes, bytes);
    }
  }

 private:
  Draws draws_;
  const unsigned char* const mask_;
  unsigned char* const mask_out_;
};

// The bias from any column on, a tile at a time: in its own place, or put together where a tile
// runs past its end.
template <class T>
class Bias {
 public:
  FASTOPT_HOST_DEVICE Bias(const DropoutCall& call, int64_t begin)
      : bias_(static_cast<const T*>(call.bias)),
        columns_(call.columns),
        column_(begin % call.columns) {
    if (columns_ < tile) fill(0, static_cast<int>(columns_) + tile);
  }

  FASTOPT_HOST_DEVICE const T* next() {
    const T* from = bias_ + column_;
    if (columns_ < tile) {
      from = repeated_ + column_;
    } else if (column_ + tile > columns_) {
      fill(column_, tile);
      from = repeated_;
    }
    column_ += tile;
    if (column_ >= columns_) column_ %= columns_;
    return from;
  }

 private:
  FASTOPT_HOST_DEVICE void fill(int64_t column, int count) {
    for (int i = 0; i < count; ++i) {
      repeated_[i] = bias_[column];
      if (++column == columns_) column = 0;
    }
  }

  const T* const bias_;
  const int64_t columns_;
  int64_t column_;
  T repeated_[2 * tile];
};

template <class T>
constexpr bool is_bfloat16 = false;
template <>
constexpr bool is_bfloat16<bfloat16> = true;

struct NoBias {
  FASTOPT_HOST_DEVICE NoBias(const DropoutCall&, int64_t) {}
};

template <class T, DropoutForm form>
class DropoutLoop {
  using Compute = typename ComputeType<T>::type;
  using V = Vec<Compute>;
  using Rule = Dropout<Compute, form>;

 public:
  FASTOPT_HOST_DEVICE explicit DropoutLoop(const DropoutCall& call)
      : rule_(call.scalars),
        x_(static_cast<const T*>(call.x)),
        residual_(static_cast<const T*>(call.residual)),
        out_(static_cast<T*>(call.out)) {}

  template <bool streams>
  FASTOPT_HOST_DEVICE void run(const DropoutCall& call, int64_t begin, int64_t end) const {
    BiasTiles bias(call, begin);
    Bits source(call, begin);
    TileBits bits;
    int64_t i = begin;
    for (; i <= end - tile; i += tile) {
      prefetch<streams>(i);
      source.next(i, tile, bits);
      whole_tile<streams>(i, bits, next(bias));
    }
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      source.next(i, rest, bits);
      part_of_tile(i, rest, bits, next(bias));
    }
    if (streams) finish_streaming();
  }

  // As run() where every element is kept.
  FASTOPT_HOST_DEVICE void run_kept(int64_t begin, int64_t end) const {
    const V scale(rule_.scale);
    int64_t i = begin;
    for (; i <= end - V::lanes; i += V::lanes) (scale * V::load(x_ + i)).store(out_ + i);
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      (scale * V::load_first(x_ + i, rest)).store_first(out_ + i, rest);
    }
  }

 private:
  template <bool has_bias, class U>
  struct BiasOf {
    using type = NoBias;
  };
  template <class U>
  struct BiasOf<true, U> {
    using type = Bias<U>;
  };
  using BiasTiles = typename BiasOf<Rule::has_bias, T>::type;
  FASTOPT_HOST_DEVICE static const T* next(Bias<T>& bias) { return bias.next(); }
  FASTOPT_HOST_DEVICE static const T* next(NoBias&) { return nullptr; }

  // Into the second-level cache, well ahead: drawing fills the processor's window of instructions,
  // which leaves the hardware prefetchers too few loads to look at.
  template <bool streams>
  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    const auto lines = [i](const T* from) {
      constexpr int ahead = 8192, line = 64;  // bytes
      const char* begin = reinterpret_cast<const char*>(from + i) + ahead;
#pragma GCC unroll 32
      for (unsigned b = 0; b < tile * sizeof(T); b += line) __builtin_prefetch(begin + b, 0, 2);
    };
    lines(x_);
    if (Rule::has_residual) lines(residual_);
    if (!streams && out_ != x_) lines(out_);
  }

  template <bool streams>
  FASTOPT_HOST_DEVICE void whole_tile(int64_t i, const TileBits& bits, const T* bias) const {
    if constexpr (in_pairs) return pairs<streams, BfloatPairs>(i, bits);
    constexpr int step = V::lanes < 32 ? 32 : V::lanes;  // so that mask_at knows i % 32
    for (int j = 0; j < tile; j += step) {
#pragma GCC unroll 16
      for (int k = 0; k < step; k += V::lanes) {
        const V y = update(i, j + k, V::mask_at(bits.bytes + j / 8, k), bias,
                           [](const T* from) { return V(unfolded(V::load(from).value)); });
        if (streams) {
          y.stream(out_ + i + j + k);
        } else {
          y.store(out_ + i + j + k);
        }
      }
    }
  }

  FASTOPT_HOST_DEVICE void part_of_tile(int64_t i, int count, const TileBits& bits,
                                        const T* bias) const {
    for (int j = 0; j < count; j += V::lanes) {
      const typename V::Mask kept = V::mask_at(bits.bytes, j);
      const int rest = count - j;
      if (rest >= V::lanes) {
        update(i, j, kept, bias, [](const T* from) { return V::load(from); }).store(out_ + i + j);
      } else {
        update(i, j, kept, bias, [rest](const T* from) {
          return V::load_first(from, rest);
        }).store_first(out_ + i + j, rest);
      }
    }
  }

  static constexpr bool in_pairs = is_bfloat16<T> && Rule::drops_input && BfloatPairs::loads_kept;

  template <bool streams, class Pairs>
  FASTOPT_HOST_DEVICE void pairs(int64_t i, const TileBits& bits) const {
#pragma GCC unroll 2
    for (int j = 0; j < tile; j += Pairs::count) {
      const Pairs x = Pairs::load_kept(x_ + i + j, bits.bytes + j / 8);
      Pairs r;
      if constexpr (Rule::has_residual) r = Pairs::load(residual_ + i + j);
      const Pairs y{rule_(x.even, r.even), rule_(x.odd, r.odd)};
      if (streams) {
        y.stream(out_ + i + j);
      } else {
        y.store(out_ + i + j);
      }
    }
  }

  template <class Load>
  FASTOPT_HOST_DEVICE V update(int64_t i, int j, typename V::Mask kept, const T* bias,
                               Load load) const {
    V b, r;
    if constexpr (Rule::has_bias) b = load(bias + j);
    if constexpr (Rule::has_residual) r = load(residual_ + i + j);
    return rule_(kept, load(x_ + i + j), b, r);
  }

  const Rule rule_;
  const T* const x_;
  const T* const residual_;
  T* const out_;
};

template <class T, DropoutForm form>
void one_form(const DropoutCall& call, int64_t begin, int64_t end) {
  DropoutLoop<T, form> loop(call);
  if (form == DropoutForm::plain && call.streams) {
    loop.template run<true>(call, begin, end);
  } else {
    loop.template run<false>(call, begin, end);
  }
}

template <class T>
void dropout(const DropoutCall& call, int64_t begin, int64_t end) {
  static constexpr DropoutKernel forms[dropout_form_count] = {
      one_form<T, DropoutForm::plain>,         one_form<T, DropoutForm::relu>,
      one_form<T, DropoutForm::bias>,          one_form<T, DropoutForm::residual>,
      one_form<T, DropoutForm::bias_residual>, one_form<T, DropoutForm::alpha>};
  forms[static_cast<int>(call.form)](call, begin, end);
}

// Elements that share a draw, `inner` of them, are kept or dropped together. What is dropped is
// not read.
template <class T>
void rows(const DropoutCall& call, int64_t begin, int64_t end) {
  const DropoutLoop<T, DropoutForm::plain> loop(call);
  T* const out = static_cast<T*>(call.out);
  int64_t row = begin / call.inner;
  Draws draws(call.seed, call.offset, call.threshold, call.index + row);
  TileBits bits;
  for (int64_t i = begin, k = 0; i < end; ++row, ++k) {
    if (k % tile == 0) draws.next(bits);
    const int64_t row_end = (row + 1) * call.inner < end ? (row + 1) * call.inner : end;
    if ((bits.bytes[k % tile / 8] >> k % 8 & 1) != 0) {
      loop.run_kept(i, row_end);
    } else {
      __builtin_memset(out + i, 0, (row_end - i) * sizeof(T));
    }
    i = row_end;
  }
}

// Bits alone, to call.mask_out.
void mask_bits(const DropoutCall& call, int64_t begin, int64_t end) {
  Bits source(call, begin);
  TileBits bits;
  for (int64_t i = begin; i < end; i += tile) {
    source.next(i, static_cast<int>(end - i < tile ? end - i : tile), bits);
  }
}

void philox_block(uint64_t seed, uint64_t offset, uint64_t block, uint32_t* words) {
  Draws::block_words(seed, offset, block, words);
}

// One byte, 0 or 1, an element, to call.out.
void mask_bytes(const DropoutCall& call, int64_t begin, int64_t end) {
  unsigned char* const out = static_cast<unsigned char*>(call.out);
  Bits source(call, begin);
  TileBits bits;
  for (int64_t i = begin; i < end; i += tile) {
    const int count = static_cast<int>(end - i < tile ? end - i : tile);
    source.next(i, count, bits);
    unsigned char bytes[tile];
    for (int j = 0; j < tile / 8; ++j) {  // bit k to byte k; then 2^k to 1
      const uint64_t placed = bits.bytes[j] * 0x0101010101010101u & 0x8040201008040201u;
      const uint64_t ones = (placed + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
      __builtin_memcpy(bytes + 8 * j, &ones, sizeof ones);
    }
    __builtin_memcpy(out + i, bytes, count);
  }
}

FASTOPT_TARGET_END
