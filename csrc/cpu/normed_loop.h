// The loops of a rule with norms: one for each of its two passes (cpu/normed.h).
//
// Both form the update from the states as they are stored, so that the step is along the vector
// whose norm was taken, whatever the states were rounded to.
#pragma once

#include <stdint.h>

#include "cpu/each_vector.h"
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/pages.h"
#include "cpu/sum.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class Rule, class T, class Array>
class NormedLoop {
 public:
  FASTOPT_HOST_DEVICE explicit NormedLoop(const Item& item)
      : rule_(*reinterpret_cast<const Rule*>(item.rule->rule)),
        update_(rule_, item.rule->tail.grad_factor, item.rule->tail.ema_decay),
        averages_(item.arrays[ema_array] != nullptr),
        param_(item, 0),
        grad_(item, 1),
        ema_(item, ema_array),
        states_{{item, 2}, {item, 3}, {item, 4}, {item, 5}, {item, 6}} {}

  // Updates the states of at most a chunk. The squares are added up strip by strip, while the
  // next strip's roots and quotients are under way (bench/NOTES.md, 24).
  FASTOPT_HOST_DEVICE void update_states(const Rounding& rounding, int64_t begin, int64_t end,
                                         double* squares) const {
    constexpr int64_t strip = 128;
    alignas(64) T params[strip], updates[strip];
    LaneSums<true> of_params, of_updates;
    for (int64_t i = begin; i < end; i += strip) {
      const int64_t stop = end - i < strip ? end : i + strip;
      if (is_page_due(i, end)) touch<true>(i);
      for (int64_t from = i; from < stop;) {
        const Stretch stretch(rounding, from, stop);
        update_states(stretch, from, params + (from - i), updates + (from - i));
        from = stretch.end;
      }
      of_params.template add<0>(params, stop - i);
      of_updates.template add<0>(updates, stop - i);
    }
    squares[0] = of_params.total();
    squares[1] = of_updates.total();
  }

  FASTOPT_HOST_DEVICE void step(int64_t begin, int64_t end, double ratio) const {
    const V size(static_cast<T>(rule_.adapts ? rule_.lr * ratio : rule_.lr));
    for (int64_t stop; begin < end; begin = stop) {
      stop = page_end(begin, end);
      if (is_page_due(begin, end)) touch<false>(begin);
      each_vector<V>(stop - begin, [&](int64_t k, auto load_from, auto store_to) {
        const int64_t i = begin + k;
        const auto load = [=](const Array& from) { return from.with(i, load_from); };
        const auto store = [=](V v, const Array& to) {
          to.with(i, [=](auto* at) { store_to(v, at); });
        };
        param_.prefetch(i + ahead);
        V p = load(param_), s[Rule::state_count];
        for (int state = 0; state < Rule::state_count; ++state) {
          states_[state].prefetch(i + ahead);
          s[state] = load(states_[state]);
        }
        p = p - size * direction(p, s);
        if (averages_) {
          ema_.prefetch(i + ahead);
          store(update_.averaged(load(ema_), p), ema_);
        }
        store(p, param_);
      });
    }
  }

 private:
  using V = typename Array::V;
  static constexpr int64_t ahead = Array::ahead;
  static constexpr unsigned all_states = (1u << Rule::state_count) - 1;

  template <bool grads>
  FASTOPT_HOST_DEVICE void touch(int64_t i) const {
    param_.touch(i);
    if (grads) grad_.touch(i);
    for (int state = 0; state < Rule::state_count; ++state) states_[state].touch(i);
  }

  FASTOPT_HOST_DEVICE void update_states(const Stretch& stretch, int64_t begin, T* params,
                                         T* updates) const {
    each_vector<V>(stretch.end - begin, [&](int64_t k, auto load_from, auto store_to) {
      const int64_t i = begin + k;
      const auto load = [=](const Array& from) { return from.with(i, load_from); };
      param_.prefetch(i + ahead);
      grad_.prefetch(i + ahead);
      V p = load(param_), g = load(grad_), s[Rule::state_count];
      for (int state = 0; state < Rule::state_count; ++state) {
        states_[state].prefetch(i + ahead);
        s[state] = load(states_[state]);
      }
      update_.step(p, g, s);
      for (int state = 0; state < Rule::state_count; ++state) {
        store_state(s[state], states_[state], stretch.draws[state], i, store_to);
        s[state] = load(states_[state]);
      }
      store_to(p, params + k);
      store_to(direction(p, s), updates + k);
    });
  }

  FASTOPT_HOST_DEVICE V direction(V param, const V* s) const {
    static_assert(Rule::state_count == 2, "write the call for other numbers of states");
    return rule_.direction(param, s[0], s[1]);
  }

  const Rule rule_;
  const Update<Rule, T, all_states> update_;
  const bool averages_;
  const Array param_, grad_, ema_;
  const Array states_[max_states];
};

template <class Rule, class T, class Array>
void run_normed_loop(const Item& item, int64_t begin, int64_t end) {
  const NormedLoop<Rule, T, Array> loop(item);
  if (double* squares = item.pass->squares) {
    loop.update_states(item.rounding, begin, end, squares);
  } else {
    loop.step(begin, end, item.pass->ratio);
  }
}

FASTOPT_TARGET_END
