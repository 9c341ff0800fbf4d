// What every kernel does with a vector of elements: the rule, and what happens around it.
#pragma once

#include "rules/rule.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Bit i of `used` is set if states[i] is kept; the others are not touched.
template <class Rule, class T, unsigned used>
class Update {
 public:
  FASTOPT_HOST_DEVICE static constexpr bool keeps(int state) { return (used >> state & 1) != 0; }

  FASTOPT_HOST_DEVICE Update(const Rule& rule, double grad_factor, double ema_decay)
      : rule_(rule),
        factor_(static_cast<T>(grad_factor)),
        decay_(static_cast<T>(ema_decay)),
        growth_(static_cast<T>(1 - ema_decay)) {}

  template <class V>
  FASTOPT_HOST_DEVICE void step(V& param, V grad, V* states) const {
    apply(param, factor_ * grad, states, Count<Rule::state_count>{});
  }

  // The running average of the parameter, once it has been stepped.
  template <class V>
  FASTOPT_HOST_DEVICE V averaged(V average, V param) const {
    return decay_ * average + growth_ * param;
  }

 private:
  // The rule's call, with Absent in the place of states that are not kept.
  template <int>
  struct Count {};
  template <class V>
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V*, Count<0>) const {
    rule_(p, g);
  }
  template <class V>
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<1>) const {
    Absent absent;
    rule_(p, g, pick<0>(s, absent));
  }
  template <class V>
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<2>) const {
    Absent absent;
    rule_(p, g, pick<0>(s, absent), pick<1>(s, absent));
  }
  template <class V>
  FASTOPT_HOST_DEVICE void apply(V& p, V g, V* s, Count<3>) const {
    Absent absent;
    rule_(p, g, pick<0>(s, absent), pick<1>(s, absent), pick<2>(s, absent));
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
  T factor_;          // of the gradient
  T decay_, growth_;  // of the average: decay and 1 - decay
};

FASTOPT_TARGET_END
