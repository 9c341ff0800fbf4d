// The loop for parameters whose states are all stored in 8 bits: one pass over memory. The others
// of their arrays are all float32 or all bfloat16.
//
// A block's scale is known only when all of it has been updated, so its numbers wait in a buffer in
// the first-level cache, and their codes are stored while the next block is worked on, in turns:
// the dividers, which roots and divisions keep busy, and the rest of the processor then work at
// the same time. Their place is behind the rule's root, before what needs it (a rule that `waits`),
// since processors do not see far enough to find that order themselves (bench/NOTES.md, 18h). The
// root that root8 stores is the one that the rule divides by, so the compiler takes it once. Two
// vectors are updated at a time, which do not wait for each other: processors do not look far
// enough ahead to find many such by themselves (bench/NOTES.md, 18b).
#pragma once

#include <stdint.h>

#include "cpu/blocks.h"
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/pages.h"
#include "numeric/code8.h"
#include "rules/update.h"
#include "simd/codes.h"
#include "simd/pair.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The codes of any number of elements; not inlined, so that all rules share it.
template <DType coding>
__attribute__((noinline)) void encode_any(const float* x, float inverse, const uint32_t* dither,
                                          uint8_t* to, int count) {
  encode<coding>(x, inverse, dither, to, count);
}

// How a Pair of elements is loaded and stored.
struct WholePair {
  using V = Pair;
  template <class Stored>
  FASTOPT_HOST_DEVICE Pair load(const Stored* from) const {
    return {Vec<float>::load(from), Vec<float>::load(from + Vec<float>::lanes)};
  }
  FASTOPT_HOST_DEVICE void store(Pair x, float* to) const {
    x.even.store(to);
    x.odd.store(to + Vec<float>::lanes);
  }
  FASTOPT_HOST_DEVICE void store(Pair x, bfloat16* to) const {
    BfloatPairs::store_in_order(x.even, x.odd, to);
  }
  template <DType coding>
  FASTOPT_HOST_DEVICE Pair decode(const uint8_t* codes, Vec<float> scale) const {
    return {load_coded<coding>(codes, scale), load_coded<coding>(codes + Vec<float>::lanes, scale)};
  }
  template <DType coding>
  FASTOPT_HOST_DEVICE void include(Pair x, Largest& largest) const {
    largest.include<coding>(x.even);
    largest.include<coding>(x.odd);
  }
};

// The first `count` elements of a vector.
struct FirstOfVec {
  using V = Vec<float>;
  int count;
  template <class Stored>
  FASTOPT_HOST_DEVICE V load(const Stored* from) const {
    return V::load_first(from, count);
  }
  template <class Stored>
  FASTOPT_HOST_DEVICE void store(V x, Stored* to) const {
    x.store_first(to, count);
  }
  template <DType coding>
  FASTOPT_HOST_DEVICE V decode(const uint8_t* codes, V scale) const {
    uint8_t first[V::lanes] = {};
    for (int i = 0; i < count; ++i) first[i] = codes[i];
    return load_coded<coding>(first, scale);
  }
  template <DType coding>
  FASTOPT_HOST_DEVICE void include(V x, Largest& largest) const {
    alignas(64) float first[V::lanes] = {};
    x.store_first(first, count);
    largest.include<coding>(V::load(first));
  }
};

// The parameter, its gradient and its average are Stored.
template <class Rule, class Stored, unsigned used, bool averages>
class CodedLoop {
 public:
  FASTOPT_HOST_DEVICE explicit CodedLoop(const Item& item)
      : item_(item),
        rule_(*reinterpret_cast<const Rule*>(item.rule->rule), item.rule->tail.grad_factor,
              item.rule->tail.ema_decay),
        param_(static_cast<Stored*>(item.arrays[0])),
        ema_(static_cast<Stored*>(item.arrays[ema_array])),
        grad_(static_cast<const Stored*>(item.arrays[1])) {}

  FASTOPT_HOST_DEVICE void run(int64_t begin, int64_t end) {
    // Not a member, for the compiler takes what is in reach of a store for changed by it.
    alignas(64) float numbers[2][max_states][block_size];
    int pending = 0;  // elements of the block before, whose codes are not stored yet
    int buffer = 0;
    for (int64_t i = begin; i < end;) {
      const int length = block_length(item_, i, end);
      for_coded([&](auto state) {
        Coded& now = now_[state.index];
        now.block = block_at(item_, state.index, i);
        now.numbers = numbers[buffer][state.index];
      });
      update_block(i, length, pending);
      for_coded([&](auto state) { before_[state.index] = now_[state.index]; });
      buffer ^= 1;
      pending = length;
      i += length;
    }
    for_coded([&](auto state) { store_codes(state, 0, pending); });
  }

 private:
  using V = Vec<float>;
  // With one lane, the loop of encode_any is better: the compiler makes vectors of it.
  static constexpr bool stores_pairs = V::lanes > 1;
  static constexpr int line_size = 64;         // bytes
  static constexpr int64_t ahead = 1536;       // bytes
  static constexpr int64_t codes_ahead = 512;  // elements, one byte each

  // A block of a state: its codes, and its numbers decoded and updated.
  struct Coded {
    Block block;
    float* numbers;
    float inverse;  // of the new scale
  };

  template <int i>
  struct CodedState : State<i> {
    static constexpr DType coding = (Rule::squares >> i & 1) != 0 ? DType::root8 : DType::signed8;
  };
  template <class Act>
  FASTOPT_HOST_DEVICE static void for_coded(Act act) {
    for_states<used>([&](auto state) { act(CodedState<state.index>()); });
  }

  // Updates a block and stores the codes of the one before it.
  FASTOPT_HOST_DEVICE void update_block(int64_t i, int length, int pending) {
    V scale[max_states], inverse[max_states];
    Largest largest[max_states];
    for_coded([&](auto state) {
      // Any NaN may have been loaded; one whose lower half is 0 may be rounded (simd/pair.h).
      const float number = *now_[state.index].block.scale;
      scale[state.index] = number == number ? number : float_of(0x7fc00000u);
      inverse[state.index] = before_[state.index].inverse;
    });
    if (is_page_due(i, block_size, item_.size)) touch_pages(i);
    const int in_pairs = length - length % Pair::lanes;
    int x = 0, stored = 0;
    for (; x < in_pairs; x += Pair::lanes) {
      prefetch(i + x);
      update(WholePair{}, i, x, scale, largest, [&] {
        if (!stores_pairs || x + Pair::lanes > pending) return;
        stored = x + Pair::lanes;
        for_coded([&](auto state) {
          const Coded& before = before_[state.index];
          store_coded<state.coding>(before.numbers + x, inverse[state.index],
                                    before.block.dither + x, before.block.codes + x);
        });
      });
    }
    for_coded([&](auto state) { store_codes(state, stored, pending); });
    for (; x < length; x += V::lanes) {
      const int rest = length - x;
      update(FirstOfVec{rest < V::lanes ? rest : V::lanes}, i, x, scale, largest, Nothing{});
    }
    for_coded([&](auto state) {
      Coded& now = now_[state.index];
      const BlockScale new_scale =
          scaled<state.coding>(now.numbers, length, largest[state.index].bits.largest());
      *now.block.scale = new_scale.scale;
      now.inverse = new_scale.inverse;
    });
  }

  // The elements from place x on of the block that begins at element i.
  template <class Some, class Meanwhile>
  FASTOPT_HOST_DEVICE void update(Some some, int64_t i, int x, const V* scale, Largest* largest,
                                  Meanwhile meanwhile) {
    using Vector = typename Some::V;
    Vector p = some.load(param_ + i + x), s[max_states];
    for_coded([&](auto state) {
      s[state.index] =
          some.template decode<state.coding>(now_[state.index].block.codes + x, scale[state.index]);
    });
    rule_.step(p, some.load(grad_ + i + x), s, meanwhile);
    for_coded([&](auto state) {
      Vector& number = s[state.index];
      if (state.coding == DType::root8) number = sqrt(number);
      some.template include<state.coding>(number, largest[state.index]);
      some.store(number, now_[state.index].numbers + x);
    });
    if (averages) some.store(rule_.averaged(some.load(ema_ + i + x), p), ema_ + i + x);
    some.store(p, param_ + i + x);
  }

  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    constexpr int pair_size = Pair::lanes * sizeof(Stored);
    for (int byte = 0; byte < pair_size; byte += line_size) {
      const auto line = [=](const Stored* at) {
        __builtin_prefetch(reinterpret_cast<const char*>(at + i) + byte + ahead);
      };
      line(param_);
      line(grad_);
      if (averages) line(ema_);
    }
    for (int k = 0; k < max_states; ++k) {  // no for_coded: see cpu/loop.h
      if (used >> k & 1) __builtin_prefetch(codes(k) + i + codes_ahead);
    }
  }

  FASTOPT_HOST_DEVICE void touch_pages(int64_t i) const {
    touch_page(param_ + i);
    touch_page(grad_ + i);
    if (averages) touch_page(ema_ + i);
    for (int k = 0; k < max_states; ++k) {
      if (used >> k & 1) touch_page(codes(k) + i);
    }
  }

  FASTOPT_HOST_DEVICE const uint8_t* codes(int state) const {
    return static_cast<const uint8_t*>(item_.arrays[2 + state]);
  }

  // Of the block before, the elements in [begin, end).
  template <class State>
  FASTOPT_HOST_DEVICE void store_codes(State state, int begin, int end) {
    if (begin == end) return;
    const Coded& before = before_[state.index];
    encode_any<state.coding>(before.numbers + begin, before.inverse, before.block.dither + begin,
                             before.block.codes + begin, end - begin);
  }

  const Item& item_;
  const Update<Rule, float, used> rule_;
  Stored* const param_;
  Stored* const ema_;
  const Stored* const grad_;
  Coded now_[max_states] = {}, before_[max_states] = {};
};

// Rules that keep nothing have nothing to code.
template <class Rule, class Stored>
struct CodedLoops {
  template <unsigned used, bool averages>
  static void run(const Item& item, int64_t begin, int64_t end) {
    if constexpr (used != 0) CodedLoop<Rule, Stored, used, averages>(item).run(begin, end);
  }
};

FASTOPT_TARGET_END
