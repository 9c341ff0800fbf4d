// Adamax: Kingma & Ba 2015, algorithm 2, with torch's eps inside the maximum.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct AdamaxOptions {
  double lr = 2e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("maximize", maximize);
  }
};

template <class T>
struct Adamax {
  using Options = AdamaxOptions;
  static constexpr const char* name = "adamax";
  static constexpr int state_count = 2;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"exp_avg", "exp_inf"};
  static constexpr unsigned squares = 0b10;  // a divisor, like them
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  T step_size, beta1, one_minus_beta1, beta2, eps;

  FASTOPT_HOST_DEVICE Adamax(const Options& o, double step)
      : gradient(o),
        step_size(static_cast<T>(o.lr / (1 - power(o.beta1, step)))),
        beta1(static_cast<T>(o.beta1)),
        one_minus_beta1(static_cast<T>(1 - o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        eps(static_cast<T>(o.eps)) {}

  template <class V>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& exp_avg, V& exp_inf) const {
    V g = gradient(param, grad);
    V magnitude = select(V(0) < g, g, V(0) - g);
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g;
    exp_inf = maximum(beta2 * exp_inf, magnitude + eps);
    param = param - step_size * (exp_avg / exp_inf);
  }
};

FASTOPT_TARGET_END
