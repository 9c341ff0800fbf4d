// Wide on the baseline instruction set: one lane.
#pragma once

#include "numeric/philox.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

struct Wide {
  static constexpr int lanes = 1, lockstep = 2;
  uint64_t value;

  Wide() = default;
  FASTOPT_HOST_DEVICE Wide(uint64_t x) : value(x) {}
  FASTOPT_HOST_DEVICE static Wide count_from(uint64_t first) { return first; }
  FASTOPT_HOST_DEVICE static Wide threshold(uint32_t draw) { return draw; }

  friend FASTOPT_HOST_DEVICE Wide times(Wide a, uint32_t b) { return (a.value & ~0u) * b; }
  friend FASTOPT_HOST_DEVICE Wide high(Wide a) { return a.value >> 32; }
  friend FASTOPT_HOST_DEVICE Wide operator^(Wide a, Wide b) { return a.value ^ b.value; }

  friend FASTOPT_HOST_DEVICE Wide both_words(Wide product, Wide other, Wide key) {
    const Wide first = high(product) ^ other ^ key;
    return product.value << 32 | (first.value & ~0u);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Wide first, Wide second, uint16_t* to) {
    const auto turned = [](uint64_t two) {  // each half by 8 bits
      return (two << 8 & 0xffffff00ffffff00u) | (two >> 24 & 0x000000ff000000ffu);
    };
    const uint64_t draws[] = {first.value, second.value, turned(first.value), turned(second.value)};
    __builtin_memcpy(to, draws, sizeof draws);
  }

  FASTOPT_HOST_DEVICE static void store_kept(Wide first, Wide second, Wide threshold,
                                             unsigned char* bits) {
    unsigned kept = 0;
    for (int j = 0; j < 4; ++j) {
      kept |= unsigned{(first.value >> 16 * j & 0xffffu) < threshold.value} << j;
      kept |= unsigned{(second.value >> 16 * j & 0xffffu) < threshold.value} << (4 + j);
    }
    *bits = static_cast<unsigned char>(kept);
  }
};

FASTOPT_TARGET_END
