// Two vectors of floats that are stored as bfloat16, one from the even elements and one from the
// odd.
//
// A bfloat16 is the upper half of a float, so one load gives both by a shift and a mask, and one
// store takes both: half the work of widening and narrowing in order. To a rule, which never moves
// elements between lanes, a Pair is a vector like any other.
#pragma once

#include "numeric/half.h"
#include "simd/lanes.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Stores round to nearest even, like to_bfloat16, but for NaN ask that its lower half is 0: a carry
// could else make it a number. It is for every NaN that comes of arithmetic on bfloat16 and on
// scalars that are no NaN with a payload; options are never NaN, and the one factor that may be,
// that of the gradient, has none (bindings/step/clip.cpp).
struct Pair {
  struct Mask {
    Vec<float>::Mask even, odd;
    friend FASTOPT_HOST_DEVICE Mask operator|(Mask a, Mask b) {
      return {Vec<float>::Mask(a.even | b.even), Vec<float>::Mask(a.odd | b.odd)};
    }
  };
  static constexpr int lanes = 2 * Vec<float>::lanes;
  Vec<float> even, odd;

  Pair() = default;
  FASTOPT_HOST_DEVICE Pair(Vec<float> even, Vec<float> odd) : even(even), odd(odd) {}
  FASTOPT_HOST_DEVICE Pair(float x) : even(x), odd(x) {}

  FASTOPT_HOST_DEVICE static Pair load(const bfloat16* from) {
    const BfloatPairs pairs = BfloatPairs::load(from);
    return {pairs.even, pairs.odd};
  }
  FASTOPT_HOST_DEVICE void store(bfloat16* to) const { BfloatPairs{even, odd}.store(to); }
  // No NaN and no infinity needs care here: what is added below its upper half does not carry.
  FASTOPT_HOST_DEVICE void store(Drawn<bfloat16>* to) const {
    BfloatPairs{even, odd}.store(to->to, to->draws);
  }
  FASTOPT_HOST_DEVICE static Pair load_first(const bfloat16* from, int count) {
    return load_lanes<Pair>(from, count);
  }
  FASTOPT_HOST_DEVICE void store_first(bfloat16* to, int count) const {
    store_lanes(*this, to, count);
  }
  FASTOPT_HOST_DEVICE void store_first(Drawn<bfloat16>* to, int count) const {
    store_lanes(*this, to, count);
  }

  friend FASTOPT_HOST_DEVICE Pair operator+(Pair a, Pair b) {
    return {a.even + b.even, a.odd + b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator-(Pair a, Pair b) {
    return {a.even - b.even, a.odd - b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator*(Pair a, Pair b) {
    return {a.even * b.even, a.odd * b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator/(Pair a, Pair b) {
    return {a.even / b.even, a.odd / b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair operator-(Pair a) { return {-a.even, -a.odd}; }
  friend FASTOPT_HOST_DEVICE Mask operator<(Pair a, Pair b) {
    return {a.even < b.even, a.odd < b.odd};
  }
  friend FASTOPT_HOST_DEVICE Mask operator>=(Pair a, Pair b) {
    return {a.even >= b.even, a.odd >= b.odd};
  }
  friend FASTOPT_HOST_DEVICE Mask operator!=(Pair a, Pair b) {
    return {a.even != b.even, a.odd != b.odd};
  }
  friend FASTOPT_HOST_DEVICE Pair select(Mask m, Pair a, Pair b) {
    return {select(m.even, a.even, b.even), select(m.odd, a.odd, b.odd)};
  }
  friend FASTOPT_HOST_DEVICE Pair sqrt(Pair a) { return {sqrt(a.even), sqrt(a.odd)}; }
};

FASTOPT_TARGET_END
