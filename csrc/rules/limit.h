// No optimizer: the least work that reads and writes what a rule with the same arrays does.
//
// The bench measures it as the limit that memory sets. One addition per array stands between load
// and store, so that the compiler cannot drop either.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct LimitOptions {
  double states = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("states", states, Range::non_negative);
  }
};

template <class T>
struct Limit {
  using Options = LimitOptions;
  static constexpr const char* name = "limit";
  static constexpr int state_count = 3;
  static constexpr int required = 0;
  static constexpr const char* states[state_count] = {"state0", "state1", "state2"};
  static constexpr unsigned squares = 0b000;
  static bool uses(const Options& o, int state) { return state < o.states; }
  static bool counts_steps(const Options&) { return false; }

  FASTOPT_HOST_DEVICE Limit(const Options&, double) {}

  template <class V, class... States>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, States&... states) const {
    param = param + grad;
    (add(states, grad), ...);
  }

 private:
  template <class V, class State>
  FASTOPT_HOST_DEVICE static void add([[maybe_unused]] State& state, V grad) {
    if constexpr (present<State>) state = state + grad;
  }
};

FASTOPT_TARGET_END
