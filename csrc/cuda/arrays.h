// How a thread reads and writes the elements that it works on.
#pragma once

#include <stdint.h>

#include "cuda/launch.h"
#include "numeric/dither.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Packets of adjoining elements: the first at `first`, each other as far on as a block's threads
// reach with one each. Those from `end` on are left out. A packet of more than one element is one
// access to memory.
template <int packet_size, int packets>
struct Packets {
  static constexpr int size = packet_size, lanes = size * packets;
  int first, end;

  // Where a thread's element k is.
  FASTOPT_DEVICE int place(int k) const {
    return first + k / size * (block_threads * size) + k % size;
  }

  // Elements as they are stored, to and from memory of a thread's own.
  template <class Element>
  FASTOPT_DEVICE void load(const Element* data, void* to) const {
    constexpr int bytes = size * sizeof *data;
    for (int k = 0; k < lanes; k += size) {
      if (k > 0 && place(k) >= end) continue;
      __builtin_memcpy(static_cast<char*>(to) + k * sizeof *data, aligned<bytes>(data + place(k)),
                       bytes);
    }
  }
  template <class Element>
  FASTOPT_DEVICE void store(const void* from, Element* data) const {
    constexpr int bytes = size * sizeof *data;
    for (int k = 0; k < lanes; k += size) {
      if (k > 0 && place(k) >= end) continue;
      __builtin_memcpy(aligned<bytes>(data + place(k)),
                       static_cast<const char*>(from) + k * sizeof *data, bytes);
    }
  }
};

// The draws by which a state is rounded to 16 bits, of elements from one of the whole parameter on
// (numeric/dither.h).
class HalfDraws {
 public:
  FASTOPT_DEVICE HalfDraws(DitherStep step, int64_t begin, int state)
      : step_(step), begin_(begin), state_(state) {}

  template <class Access>
  FASTOPT_DEVICE uint16_t of(Access access, int k) const {
    return half_dither_entry(step_, half_dither_place(begin_ + access.place(k), state_));
  }

 private:
  const DitherStep step_;
  const int64_t begin_;
  const int state_;
};

// Likewise, from a table in shared memory, of packets that begin at multiples of their size in the
// whole parameter.
struct DrawTable {
  uint32_t draws[dither_size];

  // A thread's part of a step's.
  FASTOPT_DEVICE void make(DitherStep step, int thread) {
    static_assert(dither_size == 2 * block_threads);
    const uint32_t pair = half_dither_pair(step, thread);
    draws[2 * thread] = pair & 0xffffu;
    draws[2 * thread + 1] = pair >> 16;
  }
};
struct NoDraws {};

template <class Table>
class DrawsOf {
 public:
  FASTOPT_DEVICE DrawsOf(const Table& table, HalfDitherPlaces places, int state)
      : table_(table), places_(places), state_(state) {}

  template <class Access>
  FASTOPT_DEVICE uint16_t of(Access access, int k) const {
    const int in_packet = k % Access::size;
    const uint32_t entry = places_.at(access.place(k - in_packet), state_);
    return static_cast<uint16_t>(table_.draws[entry + in_packet]);
  }

 private:
  const Table& table_;
  const HalfDitherPlaces places_;
  const int state_;
};

// Elements of one type as they are stored, in a thread's own memory. Those of 16 bits are put in
// their order.
template <class Stored, int lanes>
struct BitsOf {
  using V = Vec<Stored>;
  alignas(16) Stored at[lanes];

  FASTOPT_DEVICE V get(int k) const { return at[k]; }
  FASTOPT_DEVICE void put(int k, V v) { at[k] = v.value; }
  template <class Access, class Draws>
  FASTOPT_DEVICE void put(int k, V v, Access, const Draws&) {
    put(k, v);
  }
};

template <int lanes>
struct HalvesOf {
  alignas(16) uint32_t words[(lanes + 1) / 2];

  FASTOPT_DEVICE void set(int k, uint32_t bits) {
    words[k / 2] = k % 2 == 0 ? bits : words[k / 2] | bits << 16;
  }
};

template <int lanes>
struct BitsOf<bfloat16, lanes> : HalvesOf<lanes> {
  using V = Vec<float>;

  FASTOPT_DEVICE V get(int k) const {
    const uint32_t word = this->words[k / 2];
    return float_of(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
  FASTOPT_DEVICE void put(int k, V v) { this->set(k, to_bfloat16(v.value).bits); }
  template <class Access, class Draws>
  FASTOPT_DEVICE void put(int k, V v, Access access, const Draws& draws) {
    const uint32_t rounded = rounded_by(v.value, draws.of(access, k));
    uint32_t& word = this->words[k / 2];
    word = k % 2 != 0      ? upper_halves(word, rounded)
           : k + 1 < lanes ? rounded  // until the other half comes
                           : rounded >> 16;
  }
};

template <int lanes>
struct BitsOf<float16, lanes> : HalvesOf<lanes> {
  using V = Vec<float>;

  FASTOPT_DEVICE V get(int k) const {
    return to_float(float16{static_cast<uint16_t>(this->words[k / 2] >> 16 * (k % 2))});
  }
  FASTOPT_DEVICE void put(int k, V v) { this->set(k, to_float16(v.value).bits); }
  template <class Access, class Draws>
  FASTOPT_DEVICE void put(int k, V v, Access access, const Draws& draws) {
    this->set(k, to_float16(v.value, draws.of(access, k)).bits);
  }
};

// What the arrays below have in common: all of a thread's elements, from memory and back.
template <class Array, class Access, class V>
FASTOPT_DEVICE void load_numbers(const Array& array, Access access, V* to) {
  typename Array::template Bits<Access> bits;
  array.load(access, bits);
  array.template get<Access::lanes>(bits, 0, to);
}
template <class Array, class Access, class V, class... Draws>
FASTOPT_DEVICE void store_numbers(const Array& array, Access access, const V* from,
                                  const Draws&... draws) {
  typename Array::template Bits<Access> bits;
  array.template put<Access::lanes>(from, 0, bits, access, draws...);
  array.store(access, bits);
}

// An array of one type, from an element on.
template <class Stored>
struct ArrayOf {
  static constexpr int packet = 16 / sizeof(Stored);  // elements of the widest access
  static constexpr int most_bytes = sizeof(Stored);   // of an element
  template <class Access>                             // elements whose numbers a thread has at hand
  static constexpr int at_once = sizeof(Stored) == 2 ? 4 : Access::lanes;

  template <class Access>
  using Bits = BitsOf<Stored, Access::lanes>;
  Stored* data;

  FASTOPT_DEVICE ArrayOf(const CudaItem& item, int array, int64_t begin)
      : data(static_cast<Stored*>(item.arrays[array]) + begin) {}
  FASTOPT_DEVICE static int bytes(const CudaItem&, int) { return sizeof(Stored); }

  template <class Access>
  FASTOPT_DEVICE void load(Access access, Bits<Access>& to) const {
    access.load(data, &to);
  }
  template <class Access>
  FASTOPT_DEVICE void store(Access access, const Bits<Access>& from) const {
    access.store(&from, data);
  }

  // So many of them, from number k on. Those of states of 16 bits are rounded by draws.
  template <int count, class Its, class V>
  FASTOPT_DEVICE void get(const Its& bits, int k, V* to) const {
    for (int i = 0; i < count; ++i) to[i] = bits.get(k + i);
  }
  template <int count, class Its, class V, class Access, class... Draws>
  FASTOPT_DEVICE void put(const V* from, int k, Its& bits, Access access,
                          const Draws&... draws) const {
    for (int i = 0; i < count; ++i) {
      if constexpr (sizeof...(Draws) == 0) {
        bits.put(k + i, from[i]);
      } else {
        bits.put(k + i, from[i], access, draws...);
      }
    }
  }

  template <class Access, class V>
  FASTOPT_DEVICE void load(Access access, V* to) const {
    load_numbers(*this, access, to);
  }
  template <class Access, class V, class... Draws>
  FASTOPT_DEVICE void store(Access access, const V* from, const Draws&... draws) const {
    store_numbers(*this, access, from, draws...);
  }
};

// The elements of a chunk of this size before all of an item's arrays come to a multiple of a
// packet; all, if they do so apart. A chunk begins where its parameter begins, in terms of packets.
template <class Array, int packet>
FASTOPT_DEVICE int head_of(const CudaItem& item, int size) {
  int common = -1;
  for (int array = 0; array < max_arrays; ++array) {
    if (item.arrays[array] == nullptr) continue;
    const uintptr_t place = reinterpret_cast<uintptr_t>(item.arrays[array]) /
                            static_cast<unsigned>(Array::bytes(item, array));
    const int head = static_cast<int>((packet - place % packet) % packet);
    if (common >= 0 && head != common) return size;
    common = head;
  }
  return common < size ? common : size;
}

// An array of float32, bfloat16 or float16: branches that all threads take alike, for all of a
// thread's elements.
struct MixedArray {
  static constexpr int packet = 4;
  static constexpr int most_bytes = 4;
  template <class Access>
  static constexpr int at_once = Access::lanes;

  // Words of 0 where nothing is: see cuda/eight.h.
  template <class Access>
  struct Bits {
    alignas(16) uint32_t words[Access::lanes] = {};
  };
  char* data;
  DType dtype;

  FASTOPT_DEVICE MixedArray(const CudaItem& item, int array, int64_t begin)
      : data(static_cast<char*>(item.arrays[array]) + begin * bytes(item, array)),
        dtype(static_cast<DType>(item.dtypes[array])) {}
  FASTOPT_DEVICE static int bytes(const CudaItem& item, int array) {
    return static_cast<DType>(item.dtypes[array]) == DType::float32 ? 4 : 2;
  }

  template <class Access>
  FASTOPT_DEVICE void load(Access access, Bits<Access>& to) const {
    if (dtype == DType::float32) return access.load(reinterpret_cast<const float*>(data), &to);
    access.load(reinterpret_cast<const uint16_t*>(data), &to);
  }
  template <class Access>
  FASTOPT_DEVICE void store(Access access, const Bits<Access>& from) const {
    if (dtype == DType::float32) return access.store(&from, reinterpret_cast<float*>(data));
    access.store(&from, reinterpret_cast<uint16_t*>(data));
  }

  template <int count, class Access, class V>
  FASTOPT_DEVICE void get(const Bits<Access>& bits, int, V* to) const {
    if (dtype == DType::float32) return get_of<float>(bits, to);
    if (dtype == DType::bfloat16) return get_of<bfloat16>(bits, to);
    get_of<float16>(bits, to);
  }
  template <int count, class V, class Access, class... Draws>
  FASTOPT_DEVICE void put(const V* from, int, Bits<Access>& bits, Access access,
                          const Draws&... draws) const {
    if (dtype == DType::float32) return put_of<float>(from, bits, access, draws...);
    if (dtype == DType::bfloat16) return put_of<bfloat16>(from, bits, access, draws...);
    put_of<float16>(from, bits, access, draws...);
  }

  template <class Access, class V>
  FASTOPT_DEVICE void load(Access access, V* to) const {
    load_numbers(*this, access, to);
  }
  template <class Access, class V, class... Draws>
  FASTOPT_DEVICE void store(Access access, const V* from, const Draws&... draws) const {
    store_numbers(*this, access, from, draws...);
  }

 private:
  template <class Stored, class Access, class V>
  FASTOPT_DEVICE static void get_of(const Bits<Access>& bits, V* to) {
    BitsOf<Stored, Access::lanes> its;
    __builtin_memcpy(&its, &bits, sizeof its);
    for (int k = 0; k < Access::lanes; ++k) to[k] = its.get(k);
  }
  template <class Stored, class V, class Access, class... Draws>
  FASTOPT_DEVICE static void put_of(const V* from, Bits<Access>& bits, Access access,
                                    const Draws&... draws) {
    BitsOf<Stored, Access::lanes> its;
    for (int k = 0; k < Access::lanes; ++k) {
      if constexpr (sizeof...(Draws) == 0) {
        its.put(k, from[k]);
      } else {
        its.put(k, from[k], access, draws...);
      }
    }
    __builtin_memcpy(bits.words, &its, sizeof its);
  }
};

template <class Array>
constexpr bool holds_mixes = false;
template <>
constexpr bool holds_mixes<MixedArray> = true;

// Whether an array may be of 16 bits.
template <class Array>
constexpr bool holds_halves = holds_mixes<Array> || Array::most_bytes == 2;

FASTOPT_TARGET_END
