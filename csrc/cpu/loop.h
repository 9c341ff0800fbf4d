// The one CPU loop: any rule over any number of states, vector by vector, with a masked end.
//
// Only the end is masked: masking every iteration would halve the speed. The rule is copied to a
// local first; through a pointer, the compiler would have to assume that each store changes it.
// Which states are kept is a template parameter; a rule's other options are branches that do not
// change over the loop, which cmake/Targets.cmake lets the compiler move out of it.
// Each array is prefetched a little ahead, because square roots and divisions leave hardware
// prefetchers too few loads to look at (bench/NOTES.md, 1, 23b and 18o), and its pages are touched
// further ahead.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/pages.h"
#include "cpu/rounding.h"
#include "rules/update.h"
#include "simd/pair.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// An array of one type.
template <class Stored, class Vector = Vec<Stored>>
struct ArrayOf {
  using V = Vector;
  static constexpr int64_t ahead = sizeof(Stored) == 2 ? 256 : 384 / sizeof(Stored);  // elements
  Stored* data;
  FASTOPT_HOST_DEVICE ArrayOf(const Item& item, int array)
      : data(static_cast<Stored*>(item.arrays[array])) {}
  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    __builtin_prefetch(data + i);
    if (V::lanes * sizeof(Stored) > 64) __builtin_prefetch(data + i + V::lanes / 2);
  }
  FASTOPT_HOST_DEVICE void touch(int64_t i) const { touch_page(data + i); }
  template <class Act>
  FASTOPT_HOST_DEVICE auto with(int64_t i, Act act) const {
    return act(data + i);
  }
  template <class Act>
  FASTOPT_HOST_DEVICE auto rounding(int64_t i, Act act) const {
    return with(i, act);
  }
};

// An array of float32, bfloat16 or float16. Its type is hidden from the compiler, which would make
// a loop for each combination of types; branches that are always predicted cost less than that, and
// half of it for two vectors at a time.
struct MixedArray {
  using V = Pair;
  static constexpr int64_t ahead = 256;
  char* data;
  DType dtype;
  FASTOPT_HOST_DEVICE MixedArray(const Item& item, int array)
      : data(static_cast<char*>(item.arrays[array])), dtype(item.dtypes[array]) {}
  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    const char* const at = place(i);
    __builtin_prefetch(at);
    if (V::lanes * 4 > 64 && dtype == DType::float32) __builtin_prefetch(at + 64);
  }
  FASTOPT_HOST_DEVICE void touch(int64_t i) const { touch_page(place(i)); }
  template <class Act>
  FASTOPT_HOST_DEVICE auto with(int64_t i, Act act) const {
    DType stored = dtype;
    asm("" : "+r"(stored));
    if (stored == DType::float32) return act(reinterpret_cast<float*>(data) + i);
    if (stored == DType::bfloat16) return act(reinterpret_cast<InOrder*>(data) + i);
    return act(reinterpret_cast<float16*>(data) + i);
  }
  template <class Act>
  FASTOPT_HOST_DEVICE auto rounding(int64_t i, Act act) const {
    return with(i, act);
  }

 private:
  FASTOPT_HOST_DEVICE const char* place(int64_t i) const {
    return data + (dtype == DType::float32 ? 4 : 2) * i;
  }
};

// Rounded by its draws where it has 16 bits.
template <class V, class Array, class Store>
FASTOPT_HOST_DEVICE void store_state(V v, const Array& to, const uint16_t* draws, int64_t i,
                                     Store store_to) {
  to.with(i, [=](auto* at) { by_draw(at, draws, i, [=](auto* place) { store_to(v, place); }); });
}

// The loop of a rule with a given set of states: bit i of `used` is set if states[i] is kept.
template <class Rule, class T, class Param, class Array, unsigned used, bool averages>
struct Loop {
  using V = typename Array::V;
  const Update<Rule, T, used> rule;
  const Param param;
  const Array ema, grad;
  const Array states[max_states];
  const int64_t size, furthest;  // from where on nothing is left to prefetch

  FASTOPT_HOST_DEVICE Loop(const Item& item, Param param)
      : rule(*reinterpret_cast<const Rule*>(item.rule->rule), item.rule->tail.grad_factor,
             item.rule->tail.ema_decay),
        param(param),
        ema(item, ema_array),
        grad(item, 1),
        states{{item, 2}, {item, 3}, {item, 4}, {item, 5}, {item, 6}},
        size(item.size),
        furthest(size - Array::ahead - V::lanes) {}

  FASTOPT_HOST_DEVICE void run(const Rounding& rounding, int64_t begin, int64_t end) const {
    while (begin < end) {
      const Stretch stretch(rounding, begin, page_end(begin, end));
      if (is_page_due(begin, block_size, size)) touch(begin);
      run(stretch.draws, begin, stretch.end);
      begin = stretch.end;
    }
  }

 private:
  using Draws = const uint16_t* const*;  // of each state

  FASTOPT_HOST_DEVICE void run(Draws draws, int64_t begin, int64_t end) const {
    int64_t i = begin;
    for (; i <= end - V::lanes; i += V::lanes) {
      prefetch(i < furthest ? i : furthest);
      update(
          draws, i, [](auto* from) { return V::load(from); }, [](V v, auto* to) { v.store(to); });
    }
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      update(
          draws, i, [rest](auto* from) { return V::load_first(from, rest); },
          [rest](V v, auto* to) { v.store_first(to, rest); });
    }
  }

  static constexpr bool keeps(int state) { return Update<Rule, T, used>::keeps(state); }

  // No lambdas that only prefetch: GCC takes them for functions without effect, and drops their
  // calls.
  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    constexpr int64_t ahead = Array::ahead;
    param.prefetch(i + ahead);
    grad.prefetch(i + ahead);
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) states[k].prefetch(i + ahead);
    }
    if (averages) ema.prefetch(i + ahead);
  }

  FASTOPT_HOST_DEVICE void touch(int64_t i) const {
    param.touch(i);
    grad.touch(i);
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) states[k].touch(i);
    }
    if (averages) ema.touch(i);
  }

  template <class Load, class Store>
  FASTOPT_HOST_DEVICE void update(Draws draws, int64_t i, Load load_from, Store store_to) const {
    const auto load = [=](const auto& from) { return from.with(i, load_from); };
    V p = load(param), g = load(grad);
    V s[max_states];
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) s[k] = load(states[k]);
    }
    rule.step(p, g, s);
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) store_state(s[k], states[k], draws[k], i, store_to);
    }
    if (averages) {
      const V average = rule.averaged(load(ema), p);
      ema.with(i, [=](auto* at) { store_to(average, at); });
    }
    param.rounding(i, [=](auto* at) { store_to(p, at); });
  }
};

// Finds the loop for the states that are there, one after another: Loops::run<used, averages>.
template <class Rule, class Loops, unsigned used = 0, int state = 0>
void choose_loop(const Item& item, int64_t begin, int64_t end) {
  static_assert(Rule::state_count <= max_states, "raise max_states in cpu/packing.h");
  if constexpr (state < Rule::state_count) {
    if (state < Rule::required || item.arrays[2 + state] != nullptr) {
      return choose_loop<Rule, Loops, (used | 1u << state), state + 1>(item, begin, end);
    }
    if constexpr (state >= Rule::required) {
      return choose_loop<Rule, Loops, used, state + 1>(item, begin, end);
    }
  } else if (item.arrays[ema_array] != nullptr) {
    Loops::template run<used, true>(item, begin, end);
  } else {
    Loops::template run<used, false>(item, begin, end);
  }
}

template <class Rule, class T, class Array>
struct Loops {
  template <unsigned used, bool averages>
  static void run(const Item& item, int64_t begin, int64_t end) {
    const Loop<Rule, T, Array, Array, used, averages> loop(item, Array(item, 0));
    loop.run(item.rounding, begin, end);
  }
};

FASTOPT_TARGET_END
