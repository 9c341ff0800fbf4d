// The one CPU loop: any rule over any number of states, vector by vector, with a masked end.
//
// Only the end is masked: masking every iteration would halve the speed. The rule is copied to a
// local first; through a pointer, the compiler would have to assume that each store changes it.
// Which states are kept is a template parameter; a rule's other options are branches that do not
// change over the loop, which cmake/Targets.cmake lets the compiler move out of it.
// Each array is prefetched a little ahead, because hardware prefetchers stop at page boundaries
// and square roots and divisions leave them too few loads to look at (bench/NOTES.md, 1).
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "rules/rule.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The loop of a rule with a given set of states: bit i of `used` is set if states[i] is kept.
template <class Rule, class T, unsigned used, bool averages>
struct Loop {
  using V = Vec<T>;
  static constexpr int64_t ahead = 1024;  // bytes

  const Rule rule;
  const T factor;         // of the gradient
  const T decay, growth;  // of the average: decay and 1 - decay
  T* const ema;
  T* const param;
  const T* const grad;
  T* states[max_states];

  FASTOPT_HOST_DEVICE Loop(const BoundRule& bound, void* const* arrays)
      : rule(*reinterpret_cast<const Rule*>(bound.rule)),
        factor(static_cast<T>(bound.tail.grad_factor)),
        decay(static_cast<T>(bound.tail.ema_decay)),
        growth(static_cast<T>(1 - bound.tail.ema_decay)),
        ema(static_cast<T*>(arrays[ema_array])),
        param(static_cast<T*>(arrays[0])),
        grad(static_cast<const T*>(arrays[1])) {
    for (int i = 0; i < max_states; ++i) states[i] = static_cast<T*>(arrays[2 + i]);
  }

  FASTOPT_HOST_DEVICE void run(int64_t begin, int64_t end) const {
    int64_t i = begin;
    for (; i <= end - V::lanes; i += V::lanes) {
      prefetch(i);
      update(i, [](const T* from) { return V::load(from); }, [](V v, T* to) { v.store(to); });
    }
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      update(
          i, [rest](const T* from) { return V::load_first(from, rest); },
          [rest](V v, T* to) { v.store_first(to, rest); });
    }
  }

 private:
  static constexpr bool keeps(int state) { return (used >> state & 1) != 0; }

  FASTOPT_HOST_DEVICE void prefetch(int64_t i) const {
    const auto line = [i](const T* from) {
      __builtin_prefetch(reinterpret_cast<const char*>(from + i) + ahead);
    };
    line(param);
    line(grad);
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) line(states[k]);
    }
    if (averages) line(ema);
  }

  template <class Load, class Store>
  FASTOPT_HOST_DEVICE void update(int64_t i, Load load, Store store) const {
    V p = load(param + i), g = factor * load(grad + i);
    V s[max_states];
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) s[k] = load(states[k] + i);
    }
    apply(p, g, s, Count<Rule::state_count>{});
    for (int k = 0; k < Rule::state_count; ++k) {
      if (keeps(k)) store(s[k], states[k] + i);
    }
    if (averages) store(decay * load(ema + i) + growth * p, ema + i);
    store(p, param + i);
  }

  // The rule's call, with Absent in the place of states that are not kept.
  template <int>
  struct Count {};
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V*, Count<0>) const { rule(p, g); }
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<1>) const { rule(p, g, pick<0>(s)); }
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<2>) const {
    rule(p, g, pick<0>(s), pick<1>(s));
  }
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<3>) const {
    rule(p, g, pick<0>(s), pick<1>(s), pick<2>(s));
  }
  template <int state>
  FASTOPT_HOST_DEVICE static auto& pick(V* s) {
    if constexpr (keeps(state)) {
      return s[state];
    } else {
      static Absent absent;
      return absent;
    }
  }
};

// Finds the loop for the states that are there, one after another.
template <class Rule, class T, unsigned used = 0, int state = 0>
void kernel(const BoundRule& bound, void* const* arrays, int64_t begin, int64_t end) {
  static_assert(Rule::state_count <= max_states, "raise max_states in cpu/kernel.h");
  if constexpr (state < Rule::state_count) {
    if (state < Rule::required || arrays[2 + state] != nullptr) {
      return kernel<Rule, T, (used | 1u << state), state + 1>(bound, arrays, begin, end);
    }
    if constexpr (state >= Rule::required) {
      return kernel<Rule, T, used, state + 1>(bound, arrays, begin, end);
    }
  } else if (arrays[ema_array] != nullptr) {
    Loop<Rule, T, used, true>(bound, arrays).run(begin, end);
  } else {
    Loop<Rule, T, used, false>(bound, arrays).run(begin, end);
  }
}

FASTOPT_TARGET_END
