// NEON (64-bit Arm): what simd/vec.h asks for, in 128 bits. A comparison gives all-ones and
// all-zeros lanes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "numeric/code8.h"
#include "numeric/half.h"
#include "numeric/split.h"
#include "simd/lanes.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec;

template <class Value>
FASTOPT_HOST_DEVICE Value unfolded(Value v) {
  return v;
}

FASTOPT_HOST_DEVICE float32x4_t widen(bfloat16, uint16x4_t x) {
  return vreinterpretq_f32_u32(vshll_n_u16(x, 16));
}
FASTOPT_HOST_DEVICE float32x4_t widen(float16, uint16x4_t x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(x));
}

FASTOPT_HOST_DEVICE uint16x4_t narrow(bfloat16, float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16);
  const uint32x4_t half = vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, half), 16);
  const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}
FASTOPT_HOST_DEVICE uint16x4_t narrow(float16, float32x4_t x) {
  return vreinterpret_u16_f16(vcvt_f16_f32(x));
}

// By draws in the lower halves of 32-bit lanes: the lanes of to_bfloat16 and to_float16.
FASTOPT_HOST_DEVICE uint16x4_t narrow(bfloat16, float32x4_t x, uint32x4_t draws) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16);
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, draws), 16);
  const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}
FASTOPT_HOST_DEVICE uint16x4_t narrow(float16, float32x4_t x, uint32x4_t draws) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), part = vshrq_n_u32(draws, 3);
  const uint32x4_t magnitude = vandq_u32(bits, vdupq_n_u32(0x7fffffffu));
  const float32x4_t multiple = vmulq_f32(vreinterpretq_f32_u32(magnitude), vdupq_n_f32(0x1p24f));
  const float32x4_t below = vmulq_f32(vcvtq_f32_u32(part), vdupq_n_f32(0x1p-13f));
  const uint32x4_t small = vcvtq_u32_f32(vaddq_f32(multiple, below));
  const uint32x4_t sum = vsubq_u32(vaddq_u32(magnitude, part), vdupq_n_u32(0x38000000u));
  uint32x4_t half = vminq_u32(vshrq_n_u32(sum, 13), vdupq_n_u32(0x7c00u));
  half = vbslq_u32(vcltq_u32(magnitude, vdupq_n_u32(0x38800000u)), small, half);
  half = vbslq_u32(vceqq_f32(x, x), half, vdupq_n_u32(0x7e00u));
  const uint32x4_t sign = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x8000u));
  return vmovn_u32(vorrq_u32(half, sign));
}

template <>
struct Vec<float> {
  struct Mask {
    uint32x4_t bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {vorrq_u32(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 4;
  float32x4_t value;

  FASTOPT_HOST_DEVICE Vec() : value(vdupq_n_f32(0)) {}
  FASTOPT_HOST_DEVICE Vec(float32x4_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(float x) : value(vdupq_n_f32(x)) {}

  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return vld1q_f32(from); }
  FASTOPT_HOST_DEVICE void store(float* to) const { vst1q_f32(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return load_lanes<Vec>(from, count);
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    store_lanes(*this, to, count);
  }

  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load(const Half* from) {
    return widen(Half{}, vld1_u16(reinterpret_cast<const uint16_t*>(from)));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Half* to) const {
    vst1_u16(reinterpret_cast<uint16_t*>(to), narrow(Half{}, value));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE static Vec load_first(const Half* from, int count) {
    return load_lanes<Vec>(from, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Half* to, int count) const {
    store_lanes(*this, to, count);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Drawn<Half>* to) const {
    vst1_u16(reinterpret_cast<uint16_t*>(to->to),
             narrow(Half{}, value, vmovl_u16(vld1_u16(to->draws))));
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Drawn<Half>* to, int count) const {
    store_lanes(*this, to, count);
  }
  template <class To>
  FASTOPT_HOST_DEVICE void stream(To* to) const {
    store(to);
  }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    const uint32x4_t places = {1, 2, 4, 8};
    return {vtstq_u32(vdupq_n_u32(bits[i / 8] >> i % 8), places)};
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return vaddq_f32(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return vsubq_f32(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return vmulq_f32(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return vdivq_f32(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) { return vnegq_f32(a.value); }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) { return {vcltq_f32(a.value, b.value)}; }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) { return {vcgeq_f32(a.value, b.value)}; }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {vmvnq_u32(vceqq_f32(a.value, b.value))};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return vbslq_f32(m.bits, a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) {
    return vreinterpretq_f32_u32(vandq_u32(m.bits, vreinterpretq_u32_f32(a.value)));
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return vsqrtq_f32(a.value); }
};

template <>
struct Vec<double> {
  struct Mask {
    uint64x2_t bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {vorrq_u64(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 2;
  float64x2_t value;

  FASTOPT_HOST_DEVICE Vec() : value(vdupq_n_f64(0)) {}
  FASTOPT_HOST_DEVICE Vec(float64x2_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(double x) : value(vdupq_n_f64(x)) {}

  FASTOPT_HOST_DEVICE static Vec load(const double* from) { return vld1q_f64(from); }
  FASTOPT_HOST_DEVICE void store(double* to) const { vst1q_f64(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const double* from, int) {
    return vsetq_lane_f64(*from, vdupq_n_f64(0), 0);
  }
  FASTOPT_HOST_DEVICE void store_first(double* to, int) const { *to = vgetq_lane_f64(value, 0); }
  FASTOPT_HOST_DEVICE void stream(double* to) const { store(to); }
  FASTOPT_HOST_DEVICE static Mask mask_at(const unsigned char* bits, int i) {
    const uint64x2_t places = {1, 2};
    return {vtstq_u64(vdupq_n_u64(bits[i / 8] >> i % 8), places)};
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return vcvt_f64_f32(vld1_f32(from)); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int) {
    return vsetq_lane_f64(*from, vdupq_n_f64(0), 0);
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return vaddq_f64(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return vsubq_f64(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return vmulq_f64(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return vdivq_f64(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) { return vnegq_f64(a.value); }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) { return {vcltq_f64(a.value, b.value)}; }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) { return {vcgeq_f64(a.value, b.value)}; }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {veorq_u64(vceqq_f64(a.value, b.value), vdupq_n_u64(~uint64_t{0}))};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return vbslq_f64(m.bits, a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Vec keep(Mask m, Vec a) {
    return vreinterpretq_f64_u64(vandq_u64(m.bits, vreinterpretq_u64_f64(a.value)));
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return vsqrtq_f64(a.value); }
};

struct BfloatPairs {
  static constexpr bool loads_kept = false;
  Vec<float> even, odd;

  FASTOPT_HOST_DEVICE static BfloatPairs load(const bfloat16* from) {
    const uint32x4_t both =
        vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(from)));
    return {vreinterpretq_f32_u32(vshlq_n_u32(both, 16)),
            vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)))};
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { join(rounded(even), rounded(odd), to); }
  FASTOPT_HOST_DEVICE static void store_in_order(Vec<float> first, Vec<float> second,
                                                 bfloat16* to) {
    first.store(to);
    second.store(to + Vec<float>::lanes);
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to, const uint16_t* draws) const {
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(draws));
    const uint32x4_t lower = vandq_u32(both, vdupq_n_u32(0xffff));
    const uint32x4_t first = vaddq_u32(vreinterpretq_u32_f32(even.value), lower);
    const uint32x4_t second = vaddq_u32(vreinterpretq_u32_f32(odd.value), vshrq_n_u32(both, 16));
    join(first, second, to);
  }

 private:
  FASTOPT_HOST_DEVICE static uint32x4_t rounded(Vec<float> x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x.value);
    const uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last);
  }
  FASTOPT_HOST_DEVICE static void join(uint32x4_t low, uint32x4_t high, bfloat16* to) {
    vst1q_u16(reinterpret_cast<uint16_t*>(to), vreinterpretq_u16_u32(vsriq_n_u32(high, low, 16)));
  }
};

FASTOPT_HOST_DEVICE void load_split(const Split& from, Vec<float>& first, Vec<float>& second) {
  const auto joined = [&from](int i) {
    const uint16x4_t hi = vld1_u16(reinterpret_cast<const uint16_t*>(from.hi + i));
    const uint32x4_t upper = vshll_n_u16(hi, 16);
    const uint32x4_t lower = vreinterpretq_u32_s32(vmovl_s16(vld1_s16(from.lo + i)));
    const uint32x4_t bits = vaddq_u32(upper, lower);
    const float32x4_t x = vreinterpretq_f32_u32(bits);
    return vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(x, x), bits, upper));
  };
  first = joined(0);
  second = joined(Vec<float>::lanes);
}
FASTOPT_HOST_DEVICE void store_split(Vec<float> first, Vec<float> second, const Split& to) {
  const auto store = [&to](float32x4_t x, int i) {
    const uint32x4_t bits =
        vbslq_u32(vceqq_f32(x, x), vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fc00000u));
    const uint32x4_t upper = vshrq_n_u32(vaddq_u32(bits, vdupq_n_u32(0x8000)), 16);
    vst1_u16(reinterpret_cast<uint16_t*>(to.hi + i), vmovn_u32(upper));
    vst1_s16(to.lo + i, vreinterpret_s16_u16(vmovn_u32(bits)));
  };
  store(first.value, 0);
  store(second.value, Vec<float>::lanes);
}

FASTOPT_HOST_DEVICE void finish_streaming() {}

struct Words64 {
  static constexpr int lanes = 2, lockstep = 4;
  uint64x2_t value;

  Words64() = default;
  FASTOPT_HOST_DEVICE Words64(uint64x2_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Words64(uint64_t x) : value(vdupq_n_u64(x)) {}
  FASTOPT_HOST_DEVICE static Words64 count_from(uint64_t first) {
    return vcombine_u64(vcreate_u64(first), vcreate_u64(first + 1));
  }
  FASTOPT_HOST_DEVICE static Words64 threshold(uint32_t draw) {
    return vreinterpretq_u64_u16(vdupq_n_u16(static_cast<uint16_t>(draw)));
  }

  friend FASTOPT_HOST_DEVICE Words64 times(Words64 a, uint32_t b) {
    return vmull_u32(vmovn_u64(a.value), vdup_n_u32(b));
  }
  friend FASTOPT_HOST_DEVICE Words64 high(Words64 a) { return vshrq_n_u64(a.value, 32); }
  friend FASTOPT_HOST_DEVICE Words64 operator^(Words64 a, Words64 b) {
    return veorq_u64(a.value, b.value);
  }

  friend FASTOPT_HOST_DEVICE Words64 both_words(Words64 product, Words64 other, Words64 key) {
    return vsliq_n_u64((high(product) ^ other ^ key).value, product.value, 32);
  }

  FASTOPT_HOST_DEVICE static void store_draws(Words64 first, Words64 second, uint16_t* to) {
    const auto store = [](uint64x2_t block, uint16_t* to) {
      const uint32x4_t words = vreinterpretq_u32_u64(block);
      const uint32x4_t turned = vsliq_n_u32(vshrq_n_u32(words, 24), words, 8);
      vst1q_u16(to, vreinterpretq_u16_u32(words));
      vst1q_u16(to + 8, vreinterpretq_u16_u32(turned));
    };
    store(vzip1q_u64(first.value, second.value), to);
    store(vzip2q_u64(first.value, second.value), to + 16);
  }

  FASTOPT_HOST_DEVICE static void store_kept(Words64 first, Words64 second, Words64 threshold,
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

struct Words32 {
  uint32x4_t value;

  Words32() = default;
  FASTOPT_HOST_DEVICE Words32(uint32x4_t x) : value(x) {}
  FASTOPT_HOST_DEVICE Words32(uint32_t x) : value(vdupq_n_u32(x)) {}
  FASTOPT_HOST_DEVICE static Words32 load(const void* from) {
    return vreinterpretq_u32_u8(vld1q_u8(static_cast<const uint8_t*>(from)));
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const uint8_t* from) {
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four(from)))));
  }
  FASTOPT_HOST_DEVICE static Words32 extended(const int8_t* from) {
    return vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four(from))))));
  }

  friend FASTOPT_HOST_DEVICE Words32 operator&(Words32 a, Words32 b) {
    return vandq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator|(Words32 a, Words32 b) {
    return vorrq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 operator+(Words32 a, Words32 b) {
    return vaddq_u32(a.value, b.value);
  }
  friend FASTOPT_HOST_DEVICE Words32 with_bits(Words32 a, Words32 of_b, Words32 b) {
    return a | (of_b & b);
  }
  friend FASTOPT_HOST_DEVICE Words32 larger(Words32 a, Words32 b) {
    return vmaxq_u32(a.value, b.value);
  }
  FASTOPT_HOST_DEVICE uint32_t largest() const { return vmaxvq_u32(value); }

  template <DType coding>
  FASTOPT_HOST_DEVICE static void store_codes(Words32 a, Words32 b, uint8_t* to) {
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
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a) {
  return vshlq_n_u32(a.value, bits);
}
FASTOPT_HOST_DEVICE Words32 shifted_left(Words32 a, Words32 bits) {
  return vshlq_u32(a.value, vreinterpretq_s32_u32(bits.value));
}
FASTOPT_HOST_DEVICE Words32 bits_of(Vec<float> x) { return vreinterpretq_u32_f32(x.value); }
FASTOPT_HOST_DEVICE Vec<float> float_of(Words32 a) { return vreinterpretq_f32_u32(a.value); }

FASTOPT_TARGET_END
