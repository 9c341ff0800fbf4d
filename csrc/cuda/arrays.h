// How a thread reads and writes the elements that it works on.
#pragma once

#include <stdint.h>

#include "cuda/launch.h"
#include "numeric/dither.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The draws by which a state is rounded to 16 bits, from an element on.
struct HalfDraws {
  double step;
  int64_t begin;  // in the whole parameter
  int state;

  template <class V, class Stored>
  FASTOPT_DEVICE void store(V v, int, Stored* to) const {
    v.store(to);
  }
  FASTOPT_DEVICE void store(Vec<float> v, int i, bfloat16* to) const { store_half(v, i, to); }
  FASTOPT_DEVICE void store(Vec<float> v, int i, float16* to) const { store_half(v, i, to); }

 private:
  template <class Half>
  FASTOPT_DEVICE void store_half(Vec<float> v, int i, Half* to) const {
    const uint16_t draw = half_dither_entry(step, half_dither_place(begin + i, state));
    Drawn<Half> place{to, &draw};
    v.store(&place);
  }
};

// Packets of adjoining elements: the first at `first`, each other as far on as a block's threads
// reach with one each. Those from `end` on are left out. A packet of more than one element is one
// access to memory.
template <int size, int packets>
struct Packets {
  static constexpr int lanes = size * packets;
  int first, end;

  template <class Stored, class V>
  FASTOPT_DEVICE void load(const Stored* data, V* to) const {
    for (int j = 0; j < packets; ++j) {
      const int at = first + j * block_threads * size;
      if (at >= end) continue;
      alignas(size * sizeof(Stored)) Stored elements[size];
      __builtin_memcpy(elements, aligned<size * sizeof(Stored)>(data + at), sizeof elements);
      for (int k = 0; k < size; ++k) to[j * size + k] = V::load(elements + k);
    }
  }

  template <class Stored, class V>
  FASTOPT_DEVICE void store(const V* from, Stored* data) const {
    store(from, data, [](V v, int, Stored* to) { v.store(to); });
  }

  // States: what has 16 bits is rounded by its draw.
  template <class Stored, class V>
  FASTOPT_DEVICE void store(const V* from, Stored* data, const HalfDraws& draws) const {
    store(from, data, [&](V v, int at, Stored* to) { draws.store(v, at, to); });
  }

 private:
  template <class Stored, class V, class Put>
  FASTOPT_DEVICE void store(const V* from, Stored* data, Put put) const {
    for (int j = 0; j < packets; ++j) {
      const int at = first + j * block_threads * size;
      if (at >= end) continue;
      alignas(size * sizeof(Stored)) Stored elements[size];
      for (int k = 0; k < size; ++k) put(from[j * size + k], at + k, elements + k);
      __builtin_memcpy(aligned<size * sizeof(Stored)>(data + at), elements, sizeof elements);
    }
  }
};

// An array of one type, from an element on.
template <class StoredType>
struct ArrayOf {
  using Stored = StoredType;
  static constexpr int packet = 16 / sizeof(Stored);  // elements of the widest access
  Stored* data;

  FASTOPT_DEVICE ArrayOf(const CudaItem& item, int array, int64_t begin)
      : data(static_cast<Stored*>(item.arrays[array]) + begin) {}
  FASTOPT_DEVICE static int bytes(const CudaItem&, int) { return sizeof(Stored); }

  template <class Access, class V>
  FASTOPT_DEVICE void load(Access access, V* to) const {
    access.load(static_cast<const Stored*>(data), to);
  }
  template <class Access, class V, class... Draws>
  FASTOPT_DEVICE void store(Access access, const V* from, const Draws&... draws) const {
    access.store(from, data, draws...);
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

// An array of float32, bfloat16 or float16: branches that all threads take alike.
struct MixedArray {
  static constexpr int packet = 4;
  char* data;
  DType dtype;

  FASTOPT_DEVICE MixedArray(const CudaItem& item, int array, int64_t begin)
      : data(static_cast<char*>(item.arrays[array]) + begin * bytes(item, array)),
        dtype(static_cast<DType>(item.dtypes[array])) {}
  FASTOPT_DEVICE static int bytes(const CudaItem& item, int array) {
    return static_cast<DType>(item.dtypes[array]) == DType::float32 ? 4 : 2;
  }

  template <class Access, class V>
  FASTOPT_DEVICE void load(Access access, V* to) const {
    if (dtype == DType::float32) return access.load(reinterpret_cast<const float*>(data), to);
    if (dtype == DType::bfloat16) return access.load(reinterpret_cast<const bfloat16*>(data), to);
    access.load(reinterpret_cast<const float16*>(data), to);
  }
  template <class Access, class V, class... Draws>
  FASTOPT_DEVICE void store(Access access, const V* from, const Draws&... draws) const {
    if (dtype == DType::float32) {
      return access.store(from, reinterpret_cast<float*>(data), draws...);
    }
    if (dtype == DType::bfloat16) {
      return access.store(from, reinterpret_cast<bfloat16*>(data), draws...);
    }
    access.store(from, reinterpret_cast<float16*>(data), draws...);
  }
};

FASTOPT_TARGET_END
