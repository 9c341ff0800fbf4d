// What every kernel does with a vector of elements: the rule, and what happens around it.
#pragma once

#include "rules/rule.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A state's place among the rule's, for the compiler.
template <int i>
struct State {
  static constexpr int index = i;
};

// act(State<i>()) for each i whose bit is set in `used`.
template <unsigned used, int i = 0, class Act>
FASTOPT_HOST_DEVICE void for_states(Act act) {
  if constexpr (used >> i != 0) {
    if constexpr ((used >> i & 1) != 0) act(State<i>());
    for_states<used, i + 1>(act);
  }
}

// Bit i of `used` is set if states[i] is kept; the others are not touched.
template <class Rule, class T, unsigned used>
class Update {
 public:
  FASTOPT_HOST_DEVICE static constexpr bool keeps(int state) { return (used >> state & 1) != 0; }

  FASTOPT_HOST_DEVICE Update(const Rule& rule, double grad_factor, double ema_decay)
      : rule_(rule),
        factor_(sign_of<T>(rule) * static_cast<T>(grad_factor)),
        decay_(static_cast<T>(ema_decay)),
        growth_(static_cast<T>(1 - ema_decay)) {}

  // meanwhile() is called once, beside the rule's root if it has one.
  template <class V, class Meanwhile = Nothing>
  FASTOPT_HOST_DEVICE void step(V& param, V grad, V* states, Meanwhile meanwhile = {}) const {
    Absent absent;
    apply(meanwhile, param, factor_ * grad, states, absent);
  }

  // The running average of the parameter, once it has been stepped.
  template <class V>
  FASTOPT_HOST_DEVICE V averaged(V average, V param) const {
    return decay_ * average + growth_ * param;
  }

 private:
  // The rule's call, with Absent in the place of states that are not kept.
  template <class Meanwhile, class V, class... Picked>
  FASTOPT_HOST_DEVICE void apply(Meanwhile meanwhile, V& p, V g, V* s, Absent& absent,
                                 Picked&... picked) const {
    constexpr int state = sizeof...(Picked);
    if constexpr (state < Rule::state_count) {
      apply(meanwhile, p, g, s, absent, picked..., pick<state>(s, absent));
    } else if constexpr (waits_for_root<Rule>) {
      rule_(p, g, picked..., meanwhile);
    } else {
      meanwhile();
      rule_(p, g, picked...);
    }
  }
  template <int state, class V>
  FASTOPT_HOST_DEVICE static auto& pick([[maybe_unused]] V* s, [[maybe_unused]] Absent& absent) {
    if constexpr (keeps(state)) {
      return s[state];
    } else {
      return absent;
    }
  }

  Rule rule_;
  T factor_;          // of the gradient, with the sign by which the rule turns it round
  T decay_, growth_;  // of the average: decay and 1 - decay
};

FASTOPT_TARGET_END
