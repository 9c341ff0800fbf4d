// Vec on NEON (64-bit Arm): 4 floats or 2 doubles. A comparison gives all-ones and all-zeros lanes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec;

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
    float lane[lanes] = {};
    for (int i = 0; i < count; ++i) lane[i] = from[i];
    return load(lane);
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    float lane[lanes];
    store(lane);
    for (int i = 0; i < count; ++i) to[i] = lane[i];
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
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return vsqrtq_f64(a.value); }
};

FASTOPT_TARGET_END
