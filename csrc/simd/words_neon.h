// Words on NEON: 4 lanes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "numeric/code8.h"
#include "simd/vec_neon.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

struct Words {
  uint32x4_t value;

  Words() = default;
  FASTOPT_HOST_DEVICE Words(uint32x4_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Words(uint32_t x) : value(vdupq_n_u32(x)) {}
  FASTOPT_HOST_DEVICE static Words load(const uint32_t* from) { return vld1q_u32(from); }
  FASTOPT_HOST_DEVICE static Words extended(const uint8_t* from) {
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four(from)))));
  }
  FASTOPT_HOST_DEVICE static Words extended(const int8_t* from) {
    return vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four(from))))));
  }

  friend FASTOPT_HOST_DEVICE Words operator&(Words a, Words b) {
    return vandq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator|(Words a, Words b) {
    return vorrq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words operator+(Words a, Words b) {
    return vaddq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words larger(Words a, Words b) { return vmaxq_u32(a.value, b.value); }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return vmaxvq_u32(value); }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words a, Words b, uint8_t* to) {
    const uint16x8_t upper =
        vuzp2q_u16(vreinterpretq_u16_u32(a.value), vreinterpretq_u16_u32(b.value));
    uint8x8_t codes = vshrn_n_u16(upper, CodeOf<coding>::shift - 16);
    if constexpr (!CodeOf<coding>::is_root) {
      codes = vbsl_u8(vdup_n_u8(0x7f), codes, vshrn_n_u16(upper, 8));
    }
    vst1_u8(to, codes);
  }

 private:
  FASTOPT_HOST_DEVICE static uint64_t four(const void* from) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, from, sizeof bytes);
    return bytes;
  }
};

template <int bits>
FASTOPT_HOST_DEVICE Words shifted_left(Words a) {
  return vshlq_n_u32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words bits_of(Vec<float> x) { return vreinterpretq_u32_f32(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words a) { return vreinterpretq_f32_u32(a.value); }

FASTOPT_TARGET_END
