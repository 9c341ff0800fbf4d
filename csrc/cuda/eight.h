// Eight adjoining elements of an array, as a thread takes them that has a block of 256 in common
// with the others of its warp: first the bits, of all arrays before any is looked at, so that all
// are on their way at once; then the numbers that they stand for.
#pragma once

#include <stdint.h>

#include "cuda/launch.h"
#include "numeric/code8.h"
#include "numeric/half.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

constexpr int eight = 8;

// Where they are. Fewer than eight, or none, at the end of a row.
struct EightAt {
  int64_t first;
  int count;
  int at_once;  // 1 if there are eight, in accesses of 8 or 16 bytes; else 0
};

// Whether an array of elements of so many bytes begins where such accesses may.
FASTOPT_DEVICE bool takes_eights(const void* array, int bytes) {
  return reinterpret_cast<uintptr_t>(array) % (bytes == 1 ? 8 : 16) == 0;
}

class Eight {
 public:
  using V = Vec<float>;

  // Of elements of 2 or 4 bytes.
  FASTOPT_DEVICE void load(const void* array, int bytes, const EightAt& at) {
    if (bytes == 4) return load_elements(static_cast<const uint32_t*>(array), at);
    load_elements(static_cast<const uint16_t*>(array), at);
  }
  FASTOPT_DEVICE void store(void* array, int bytes, const EightAt& at) const {
    if (bytes == 4) return store_elements(static_cast<uint32_t*>(array), at);
    store_elements(static_cast<uint16_t*>(array), at);
  }

  FASTOPT_DEVICE void load_codes(const void* codes, const EightAt& at) {
    load_elements(static_cast<const uint8_t*>(codes), at);
  }
  FASTOPT_DEVICE void store_codes(void* codes, const EightAt& at) const {
    store_elements(static_cast<uint8_t*>(codes), at);
  }

  // Element k.
  FASTOPT_DEVICE uint32_t word(int k) const { return words_[k]; }
  FASTOPT_DEVICE uint16_t half(int k) const {
    return static_cast<uint16_t>(words_[k / 2] >> 16 * (k % 2));
  }
  FASTOPT_DEVICE uint8_t byte(int k) const {
    return static_cast<uint8_t>(words_[k / 4] >> 8 * (k % 4));
  }

  // To be set in their order.
  FASTOPT_DEVICE void set(int k, uint32_t word) { words_[k] = word; }
  FASTOPT_DEVICE void set(int k, uint16_t half) {
    words_[k / 2] = k % 2 == 0 ? half : words_[k / 2] | uint32_t{half} << 16;
  }
  FASTOPT_DEVICE void set(int k, uint8_t byte) {
    words_[k / 4] = k % 4 == 0 ? byte : words_[k / 4] | uint32_t{byte} << 8 * (k % 4);
  }

  // Numbers of float32, bfloat16 or float16.
  FASTOPT_DEVICE void get_numbers(DType dtype, V* to) const {
    if (dtype == DType::float32) {
      for (int k = 0; k < eight; ++k) to[k] = float_of(word(k));
    } else if (dtype == DType::bfloat16) {
      for (int k = 0; k < eight; ++k) to[k] = to_float(bfloat16{half(k)});
    } else {
      for (int k = 0; k < eight; ++k) to[k] = to_float(float16{half(k)});
    }
  }
  FASTOPT_DEVICE void set_numbers(DType dtype, const V* from) {
    if (dtype == DType::float32) {
      for (int k = 0; k < eight; ++k) set(k, bits_of(from[k].value));
    } else if (dtype == DType::bfloat16) {
      for (int k = 0; k < eight; ++k) set(k, to_bfloat16(from[k].value).bits);
    } else {
      for (int k = 0; k < eight; ++k) set(k, to_float16(from[k].value).bits);
    }
  }

 private:
  template <class Element>
  FASTOPT_DEVICE static constexpr int words() {
    return eight * sizeof(Element) / 4;
  }

  template <class Element>
  FASTOPT_DEVICE void load_elements(const Element* array, const EightAt& at) {
    const Element* const from = array + at.first;
    if (at.at_once != 0) {
      constexpr int bytes = sizeof *from == 1 ? 8 : 16;  // of an access
      for (int word = 0; word < words<Element>(); word += bytes / 4) {
        const uint32_t* const there = reinterpret_cast<const uint32_t*>(from) + word;
        __builtin_memcpy(words_ + word, aligned<bytes>(there), bytes);
      }
    } else {
      for (int k = 0; k < eight; ++k) set(k, k < at.count ? from[k] : Element{0});
    }
  }

  template <class Element>
  FASTOPT_DEVICE void store_elements(Element* array, const EightAt& at) const {
    Element* const to = array + at.first;
    if (at.at_once != 0) {
      constexpr int bytes = sizeof *to == 1 ? 8 : 16;  // of an access
      for (int word = 0; word < words<Element>(); word += bytes / 4) {
        uint32_t* const there = reinterpret_cast<uint32_t*>(to) + word;
        __builtin_memcpy(aligned<bytes>(there), words_ + word, bytes);
      }
    } else {
      for (int k = 0; k < eight; ++k) {
        if (k < at.count) to[k] = element(k, Element{0});
      }
    }
  }

  FASTOPT_DEVICE uint32_t element(int k, uint32_t) const { return word(k); }
  FASTOPT_DEVICE uint16_t element(int k, uint16_t) const { return half(k); }
  FASTOPT_DEVICE uint8_t element(int k, uint8_t) const { return byte(k); }

  // 0 where nothing is: what has no number on some way round a loop would be kept, for all that the
  // compiler knows, from one time to the next, in a register.
  alignas(16) uint32_t words_[eight] = {};
};

FASTOPT_TARGET_END
