// Lion: Chen et al. 2023, algorithm 2, with AdamW's decay, param (1 - lr weight_decay).
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct LionOptions {
  double lr = 1e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0;
  bool maximize = false, cautious_decay = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("weight_decay", weight_decay, Range::non_negative);
    v("maximize", maximize);
    v("cautious_decay", cautious_decay);
  }
};

template <class T>
struct Lion {
  using Options = LionOptions;
  static constexpr const char* name = "lion";
  static constexpr int state_count = 1;
  static constexpr int required = 1;
  static constexpr const char* states[state_count] = {"exp_avg"};
  static constexpr unsigned squares = 0b0;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return false; }

  Gradient<T> gradient;
  T lr, beta1, one_minus_beta1, beta2, one_minus_beta2, shrinkage;
  bool cautious;

  FASTOPT_HOST_DEVICE Lion(const Options& o, double)
      : gradient(o),
        lr(static_cast<T>(o.lr)),
        beta1(static_cast<T>(o.beta1)),
        one_minus_beta1(static_cast<T>(1 - o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        one_minus_beta2(static_cast<T>(1 - o.beta2)),
        shrinkage(static_cast<T>(gradient.decouple(o))),
        cautious(o.cautious_decay) {}

  template <class V>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& exp_avg) const {
    V c = beta1 * exp_avg + one_minus_beta1 * grad;
    V sign = select(V(0) < c, V(1), select(c < V(0), V(-1), c));  // of 0 and NaN: themselves
    V update = lr * sign;
    param = shrunk(param, update, shrinkage, cautious) - update;
    exp_avg = beta2 * exp_avg + one_minus_beta2 * grad;
  }
};

FASTOPT_TARGET_END
