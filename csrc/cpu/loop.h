// The one CPU loop: any rule over any number of states, vector by vector, with a masked end.
//
// Only the end is masked: masking every iteration would halve the speed. The rule is copied to a
// local first; through a pointer, the compiler would have to assume that each store changes it.
// Each array is prefetched a little ahead, because hardware prefetchers stop at page boundaries
// and square roots and divisions leave them too few loads to look at (bench/NOTES.md, 1).
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <int...>
struct Indices {};

template <class Rule, class T, int... State>
struct Loop {
  const Rule rule;
  const bool scales;      // whether the gradient is multiplied first
  const T factor;         // by this
  const T decay, growth;  // of the average: decay and 1 - decay
  T* const ema;           // or nullptr
  T* const param;
  const T* const grad;
  T* const states[sizeof...(State) + 1];  // and one more, since no array may be empty

  static constexpr int64_t ahead = 1024;  // bytes

  FASTOPT_HOST_DEVICE static void prefetch(const T* from) {
    __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead);
  }

  template <class Load, class Store>
  FASTOPT_HOST_DEVICE void update(int64_t i, Load load, Store store) const {
    using V = Vec<T>;
    V p = load(param + i), g = load(grad + i);
    V s[sizeof...(State) + 1] = {states[State] ? load(states[State] + i) : V()...};
    if (scales) g = g * factor;
    rule(p, g, s[State]...);
    if (ema) store(decay * load(ema + i) + growth * p, ema + i);
    store(p, param + i);
    ((states[State] ? store(s[State], states[State] + i) : void()), ...);
  }

  FASTOPT_HOST_DEVICE void run(int64_t begin, int64_t end) const {
    using V = Vec<T>;
    int64_t i = begin;
    for (; i <= end - V::lanes; i += V::lanes) {
      prefetch(param + i);
      prefetch(grad + i);
      ((states[State] ? prefetch(states[State] + i) : void()), ...);
      if (ema) prefetch(ema + i);
      update(i, [](const T* from) { return V::load(from); }, [](V v, T* to) { v.store(to); });
    }
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      update(
          i, [rest](const T* from) { return V::load_first(from, rest); },
          [rest](V v, T* to) { v.store_first(to, rest); });
    }
  }
};

template <class Rule, class T, int... State>
FASTOPT_HOST_DEVICE void run_loop(const BoundRule& bound, void* const* arrays, int64_t begin,
                                  int64_t end, Indices<State...>) {
  const Tail& tail = bound.tail;
  Loop<Rule, T, State...>{*reinterpret_cast<const Rule*>(bound.rule),
                          tail.grad_factor != 1,
                          static_cast<T>(tail.grad_factor),
                          static_cast<T>(tail.ema_decay),
                          static_cast<T>(1 - tail.ema_decay),
                          static_cast<T*>(arrays[ema_array]),
                          static_cast<T*>(arrays[0]),
                          static_cast<const T*>(arrays[1]),
                          {static_cast<T*>(arrays[2 + State])..., nullptr}}
      .run(begin, end);
}

template <int count, int... State>
struct IndicesTo : IndicesTo<count - 1, count - 1, State...> {};
template <int... State>
struct IndicesTo<0, State...> {
  using type = Indices<State...>;
};

template <class Rule, class T>
void kernel(const BoundRule& rule, void* const* arrays, int64_t begin, int64_t end) {
  static_assert(Rule::state_count <= max_states, "raise max_states in cpu/kernel.h");
  run_loop<Rule, T>(rule, arrays, begin, end, typename IndicesTo<Rule::state_count>::type{});
}

FASTOPT_TARGET_END
