// No optimizer: an exponentially weighted average of whatever comes as the gradient, kept in the
// parameter. Kingma & Ba 2015, section 3, for the correction of its start at 0.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct EmaOptions {
  double decay = 0.9;
  bool bias_correction = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("decay", decay, Range::unit);
    v("bias_correction", bias_correction);
  }
};

template <class T>
struct Ema {
  using Options = EmaOptions;
  static constexpr const char* name = "ema";
  static constexpr int state_count = 1;
  static constexpr int required = 0;
  static constexpr const char* states[state_count] = {"corrected"};
  static constexpr unsigned squares = 0b0;
  static bool uses(const Options& o, int) { return o.bias_correction; }
  static bool counts_steps(const Options& o) { return o.bias_correction; }

  T decay, growth, correction;

  FASTOPT_HOST_DEVICE Ema(const Options& o, double step)
      : decay(static_cast<T>(o.decay)),
        growth(static_cast<T>(1 - o.decay)),
        correction(static_cast<T>(1 - power(o.decay, step))) {}

  template <class V, class Corrected>
  FASTOPT_HOST_DEVICE void operator()(V& average, V value,
                                      [[maybe_unused]] Corrected& corrected) const {
    average = decay * average + growth * value;
    if constexpr (present<Corrected>) corrected = average / correction;
  }
};

FASTOPT_TARGET_END
