// The loops of a rule with norms: one for each of its two passes (cpu/normed.h).
//
// Both form the update from the states as they are stored, so that the step is along the vector
// whose norm was taken, whatever the states were rounded to.
#pragma once

#include <stdint.h>

#include "cpu/each_vector.h"
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class Rule, class T, class Array>
class NormedLoop {
 public:
  FASTOPT_HOST_DEVICE NormedLoop(const BoundRule& bound, void* const* arrays, const DType* dtypes)
      : rule_(*reinterpret_cast<const Rule*>(bound.rule)),
        update_(rule_, bound.tail.grad_factor, bound.tail.ema_decay),
        param_(arrays, dtypes, 0),
        grad_(arrays, dtypes, 1),
        ema_(arrays, dtypes, ema_array),
        states_{{arrays, dtypes, 2},
                {arrays, dtypes, 3},
                {arrays, dtypes, 4},
                {arrays, dtypes, 5},
                {arrays, dtypes, 6}} {}

  // Leaves the update of element `begin` at updates[0].
  FASTOPT_HOST_DEVICE void update_states(const Rounding& rounding, int64_t begin, int64_t end,
                                         T* updates) const {
    while (begin < end) {
      const Stretch stretch(rounding, begin, end);
      update_states(stretch, begin, updates);
      updates += stretch.end - begin;
      begin = stretch.end;
    }
  }

  FASTOPT_HOST_DEVICE void step(int64_t begin, int64_t end, double ratio, bool averages) const {
    const V size(static_cast<T>(rule_.adapts ? rule_.lr * ratio : rule_.lr));
    each_vector<V>(end - begin, [&](int64_t k, auto load_from, auto store_to) {
      const int64_t i = begin + k;
      const auto load = [=](const Array& from) { return from.with(i, load_from); };
      const auto store = [=](V v, const Array& to) {
        to.with(i, [=](auto* at) { store_to(v, at); });
      };
      prefetch(param_, i);
      V p = load(param_), s[Rule::state_count];
      for (int state = 0; state < Rule::state_count; ++state) {
        prefetch(states_[state], i);
        s[state] = load(states_[state]);
      }
      p = p - size * direction(p, s);
      if (averages) {
        prefetch(ema_, i);
        store(update_.averaged(load(ema_), p), ema_);
      }
      store(p, param_);
    });
  }

 private:
  using V = typename Array::V;
  static constexpr unsigned all_states = (1u << Rule::state_count) - 1;

  FASTOPT_HOST_DEVICE void update_states(const Stretch& stretch, int64_t begin, T* updates) const {
    each_vector<V>(stretch.end - begin, [&](int64_t k, auto load_from, auto store_to) {
      const int64_t i = begin + k;
      const auto load = [=](const Array& from) { return from.with(i, load_from); };
      prefetch(param_, i);
      prefetch(grad_, i);
      V p = load(param_), g = load(grad_), s[Rule::state_count];
      for (int state = 0; state < Rule::state_count; ++state) {
        prefetch(states_[state], i);
        s[state] = load(states_[state]);
      }
      update_.step(p, g, s);
      for (int state = 0; state < Rule::state_count; ++state) {
        store_state(s[state], states_[state], stretch.draws[state], i, store_to);
        s[state] = load(states_[state]);
      }
      store_to(direction(p, s), updates + k);
    });
  }

  FASTOPT_HOST_DEVICE static void prefetch(const Array& from, int64_t i) {
    __builtin_prefetch(from.at(i) + 1024);  // as in cpu/loop.h
  }

  FASTOPT_HOST_DEVICE V direction(V param, const V* s) const {
    static_assert(Rule::state_count == 2, "write the call for other numbers of states");
    return rule_.direction(param, s[0], s[1]);
  }

  const Rule rule_;
  const Update<Rule, T, all_states> update_;
  const Array param_, grad_, ema_;
  const Array states_[max_states];
};

template <class Rule, class T, class Array>
void update_states(const BoundRule& bound, void* const* arrays, const DType* dtypes,
                   const Rounding& rounding, int64_t begin, int64_t end, void* updates) {
  const NormedLoop<Rule, T, Array> loop(bound, arrays, dtypes);
  loop.update_states(rounding, begin, end, static_cast<T*>(updates));
}

template <class Rule, class T, class Array>
void step_by(const BoundRule& bound, void* const* arrays, const DType* dtypes, int64_t begin,
             int64_t end, double ratio) {
  const NormedLoop<Rule, T, Array> loop(bound, arrays, dtypes);
  loop.step(begin, end, ratio, arrays[ema_array] != nullptr);
}

FASTOPT_TARGET_END
