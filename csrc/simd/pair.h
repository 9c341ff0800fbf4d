// Two vectors of floats. To a rule, which never moves elements between lanes, a Pair is a vector
// like any other.
//
// A bfloat16 is the upper half of a float, so one load gives the even elements by a shift and the
// odd ones by a mask, and one store takes both: half the work of widening and narrowing in order.
// In order, one vector after the other, are all other types, and bfloat16 beside them: InOrder.
#pragma once

#include "numeric/half.h"
#include "numeric/split.h"
#include "simd/lanes.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A bfloat16 that lies where a Pair takes its elements in order.
struct InOrder : bfloat16 {};

template <class Stored>
struct PlainType {
  using type = Stored;
};
template <>
struct PlainType<InOrder> {
  using type = bfloat16;
};
template <class Stored>
using Plain = typename PlainType<Stored>::type;

// Stores of even and odd elements round to nearest even, like to_bfloat16, but for NaN ask that its
// lower half is 0: a carry could else make it a number. It is for every NaN that comes of
// arithmetic on bfloat16 and on scalars that are no NaN with a payload; options are never NaN, and
// the one factor that may be, that of the gradient, has none (bindings/step/clip.cpp).
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

  // In order, with care for every NaN.
  template <class Stored>
  FASTOPT_HOST_DEVICE static Pair load(const Stored* from) {
    const Plain<Stored>* at = from;
    return {Vec<float>::load(at), Vec<float>::load(at + half)};
  }
  template <class Stored>
  FASTOPT_HOST_DEVICE static Pair load_first(const Stored* from, int count) {
    const Plain<Stored>* at = from;
    if (count <= half) return {Vec<float>::load_first(at, count), 0.0f};
    return {Vec<float>::load(at), Vec<float>::load_first(at + half, count - half)};
  }
  template <class Stored>
  FASTOPT_HOST_DEVICE void store(Stored* to) const {
    even.store(to);
    odd.store(to + half);
  }
  FASTOPT_HOST_DEVICE void store(InOrder* to) const { store_both(even, odd, to); }
  template <class Half>
  FASTOPT_HOST_DEVICE void store(Drawn<Half>* to) const {
    Drawn<Half> second{to->to + half, to->draws + half};
    even.store(to);
    odd.store(&second);
  }
  FASTOPT_HOST_DEVICE void store(Drawn<InOrder>* to) const {
    store_both(even, odd, to->to, to->draws);
  }
  template <class Stored>
  FASTOPT_HOST_DEVICE void store_first(Stored* to, int count) const {
    Plain<Stored>* at = to;
    if (count <= half) return even.store_first(at, count);
    even.store(at);
    odd.store_first(at + half, count - half);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void store_first(Drawn<Half>* to, int count) const {
    Drawn<Plain<Half>> first{to->to, to->draws};
    if (count <= half) return even.store_first(&first, count);
    Drawn<Plain<Half>> second{to->to + half, to->draws + half};
    even.store(&first);
    odd.store_first(&second, count - half);
  }

  // In two halves.
  FASTOPT_HOST_DEVICE static Pair load(const Split* from) {
    Pair both;
    load_split(*from, both.even, both.odd);
    return both;
  }
  FASTOPT_HOST_DEVICE void store(Split* to) const { store_split(even, odd, *to); }
  FASTOPT_HOST_DEVICE static Pair load_first(const Split* from, int count) {
    SplitLanes lane;
    for (int i = 0; i < count; ++i) {
      lane.hi[i] = from->hi[i];
      lane.lo[i] = from->lo[i];
    }
    const Split all = lane.all();
    return load(&all);
  }
  FASTOPT_HOST_DEVICE void store_first(Split* to, int count) const {
    SplitLanes lane;
    Split all = lane.all();
    store(&all);
    for (int i = 0; i < count; ++i) {
      to->hi[i] = lane.hi[i];
      to->lo[i] = lane.lo[i];
    }
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

 private:
  static constexpr int half = Vec<float>::lanes;
  struct SplitLanes {
    bfloat16 hi[lanes] = {};
    int16_t lo[lanes] = {};
    FASTOPT_HOST_DEVICE Split all() { return {hi, lo}; }
  };
};

FASTOPT_TARGET_END
