// Vec on AVX2: 8 floats or 4 doubles. A comparison gives a vector of all-ones and all-zeros lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "target.h"

FASTOPT_TARGET_BEGIN

template <class T>
struct Vec;

// Lane i of a mask for the first `count` of 8 (or 4) lanes is entry i, counted from 8 - count.
alignas(32) constexpr int32_t first_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                 0,  0,  0,  0,  0,  0,  0,  0};

template <>
struct Vec<float> {
  struct Mask {
    __m256 bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {_mm256_or_ps(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 8;
  __m256 value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm256_setzero_ps()) {}
  FASTOPT_HOST_DEVICE Vec(__m256 x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(float x) : value(_mm256_set1_ps(x)) {}

  FASTOPT_HOST_DEVICE static __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_lanes + 8 - count));
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) { return _mm256_loadu_ps(from); }
  FASTOPT_HOST_DEVICE void store(float* to) const { _mm256_storeu_ps(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    return _mm256_maskload_ps(from, first(count));
  }
  FASTOPT_HOST_DEVICE void store_first(float* to, int count) const {
    _mm256_maskstore_ps(to, first(count), value);
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm256_xor_ps(a.value, _mm256_set1_ps(-0.0f));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm256_blendv_ps(b.value, a.value, m.bits);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm256_sqrt_ps(a.value); }
};

template <>
struct Vec<double> {
  struct Mask {
    __m256d bits;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {_mm256_or_pd(a.bits, b.bits)};
    }
  };
  static constexpr int lanes = 4;
  __m256d value;

  FASTOPT_HOST_DEVICE Vec() : value(_mm256_setzero_pd()) {}
  FASTOPT_HOST_DEVICE Vec(__m256d x) : value(x) {}
  FASTOPT_HOST_DEVICE Vec(double x) : value(_mm256_set1_pd(x)) {}

  FASTOPT_HOST_DEVICE static __m256i first(int count) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_lanes + 8 - 2 * count));
  }
  FASTOPT_HOST_DEVICE static Vec load(const double* from) { return _mm256_loadu_pd(from); }
  FASTOPT_HOST_DEVICE void store(double* to) const { _mm256_storeu_pd(to, value); }
  FASTOPT_HOST_DEVICE static Vec load_first(const double* from, int count) {
    return _mm256_maskload_pd(from, first(count));
  }
  FASTOPT_HOST_DEVICE void store_first(double* to, int count) const {
    _mm256_maskstore_pd(to, first(count), value);
  }
  FASTOPT_HOST_DEVICE static Vec load(const float* from) {
    return _mm256_cvtps_pd(_mm_loadu_ps(from));
  }
  FASTOPT_HOST_DEVICE static Vec load_first(const float* from, int count) {
    const auto* mask = reinterpret_cast<const __m128i*>(first_lanes + 8 - count);
    return _mm256_cvtps_pd(_mm_maskload_ps(from, _mm_loadu_si128(mask)));
  }

  friend FASTOPT_HOST_DEVICE Vec operator+(Vec a, Vec b) { return _mm256_add_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a, Vec b) { return _mm256_sub_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator*(Vec a, Vec b) { return _mm256_mul_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator/(Vec a, Vec b) { return _mm256_div_pd(a.value, b.value); }
  friend FASTOPT_HOST_DEVICE Vec operator-(Vec a) {
    return _mm256_xor_pd(a.value, _mm256_set1_pd(-0.0));
  }
  friend FASTOPT_HOST_DEVICE Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_LT_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_GE_OQ)};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.value, b.value, _CMP_NEQ_UQ)};
  }
  friend FASTOPT_HOST_DEVICE Vec select(Mask m, Vec a, Vec b) {
    return _mm256_blendv_pd(b.value, a.value, m.bits);
  }
  friend FASTOPT_HOST_DEVICE Vec sqrt(Vec a) { return _mm256_sqrt_pd(a.value); }
};

FASTOPT_TARGET_END
