// Wide on NEON: 2 lanes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

struct Wide {
  static constexpr int lanes = 2, lockstep = 4;
  uint64x2_t value;

  Wide() = default;
  FASTOPT_HOST_DEVICE Wide(uint64x2_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Wide(uint64_t x) : value(vdupq_n_u64(x)) {}
  FASTOPT_HOST_DEVICE static Wide count_from(uint64_t first) {
    return vcombine_u64(vcreate_u64(first), vcreate_u64(first + 1));
  }
  FASTOPT_HOST_DEVICE static Wide threshold(uint32_t draw) {
    return vreinterpretq_u64_u16(vdupq_n_u16(static_cast<uint16_t>(draw)));
  }

  friend FASTOPT_HOST_DEVICE Wide times(Wide a, uint32_t b) {
    return vmull_u32(vmovn_u64(a.value), vdup_n_u32(b));
  }
  friend FASTOPT_HOST_DEVICE Wide high(Wide a) { return vshrq_n_u64(a.value, 32); }
  friend FASTOPT_HOST_DEVICE Wide operator^(Wide a, Wide b) { return veorq_u64(a.value, b.value); }

  friend FASTOPT_HOST_DEVICE Wide both_words(Wide product, Wide other, Wide key) {
    return vsliq_n_u64((high(product) ^ other ^ key).value, product.value, 32);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Wide first, Wide second, uint16_t* to) {
    const auto store = [](uint64x2_t block, uint16_t* to) {
      const uint32x4_t words = vreinterpretq_u32_u64(block);
      const uint32x4_t turned = vsliq_n_u32(vshrq_n_u32(words, 24), words, 8);
      vst1q_u16(to, vreinterpretq_u16_u32(words));
      vst1q_u16(to + 8, vreinterpretq_u16_u32(turned));
    };
    store(vzip1q_u64(first.value, second.value), to);
    store(vzip2q_u64(first.value, second.value), to + 16);
  }

  FASTOPT_HOST_DEVICE static void store_kept(Wide first, Wide second, Wide threshold,
                                             unsigned char* bits) {
    const auto kept = [&](uint64x2_t block) {
      const uint16x8_t places = {1, 2, 4, 8, 16, 32, 64, 128};
      const uint16x8_t below =
          vcltq_u16(vreinterpretq_u16_u64(block), vreinterpretq_u16_u64(threshold.value));
      return static_cast<unsigned char>(vaddvq_u16(vandq_u16(below, places)));
    };
    bits[0] = kept(vzip1q_u64(first.value, second.value));
    bits[1] = kept(vzip2q_u64(first.value, second.value));
  }
};

FASTOPT_TARGET_END
