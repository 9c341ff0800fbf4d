// Vec on AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles. A comparison gives a mask register.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec;

template <>
struct Vec<float> {
  struct Mask {
    __mmask16 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask16>(a.bits | b.bits)};
    }
  };
  static constexpr int lanes = 16;
  __m512 value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm512_setzero_ps()) {}
  FASTOPT_HOST_DEVICE Vec(__m512 x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(float x) : value(_mm512_set1_ps(x)) {}

  FASTOPT_HOST_DEVICE static __mmask16 first(int count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return _mm512_loadu_ps(from); }
  FASTOPT_HOST_DEVICE void store(float* to) const { _mm512_storeu_ps(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm512_maskz_loadu_ps(first(count), from);
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    _mm512_mask_storeu_ps(to, first(count), value);
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm512_xor_ps(a.value, _mm512_set1_ps(-0.0f));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm512_mask_blend_ps(m.bits, b.value, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm512_sqrt_ps(a.value); }
};

template <>
struct Vec<double> {
  struct Mask {
    __mmask8 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask8>(a.bits | b.bits)};
    }
  };
  static constexpr int lanes = 8;
  __m512d value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm512_setzero_pd()) {}
  FASTOPT_HOST_DEVICE Vec(__m512d x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(double x) : value(_mm512_set1_pd(x)) {}

  FASTOPT_HOST_DEVICE static __mmask8 first(int count) {
    return static_cast<__mmask8>((1u << count) - 1);
  }
  FASTOPT_HOST_DEVICE static Vec load(const double* from) { return _mm512_loadu_pd(from); }
  FASTOPT_HOST_DEVICE void store(double* to) const { _mm512_storeu_pd(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const double* from, int count) {
    return _mm512_maskz_loadu_pd(first(count), from);
  }
  FASTOPT_HOST_DEVICE void store_first(double* to, int count) const {
    _mm512_mask_storeu_pd(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(from));
  }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first(count), from));
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm512_div_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm512_xor_pd(a.value, _mm512_set1_pd(-0.0));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm512_mask_blend_pd(m.bits, b.value, a.value);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm512_sqrt_pd(a.value); }
};

FASTOPT_TARGET_END
