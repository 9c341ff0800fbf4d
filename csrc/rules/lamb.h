// LAMB: You et al. 2020, algorithm 2, with the identity for their phi. What has no decay is stepped
// as by Adam, unless always_adapt is set.
//
// The corrections are folded into two scalars, as Adam's are; with c1 and c2 those of the moments,
//   (m / c1) / (sqrt(v / c2) + eps) = (sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2))
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct LAMBOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-6, weight_decay = 0.01;
  bool bias_correction = true, maximize = false, always_adapt = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("bias_correction", bias_correction);
    v("maximize", maximize);
    v("always_adapt", always_adapt);
  }
};

template <class T>
struct LAMB {
  using Options = LAMBOptions;
  static constexpr const char* name = "lamb";
  static constexpr int state_count = 2;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"exp_avg", "exp_avg_sq"};
  static constexpr unsigned squares = 0b10;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  bool adapts;  // by the ratio of the norms
  double lr;
  Averages<T> averages;
  T correction, eps;

  FASTOPT_HOST_DEVICE LAMB(const Options& o, double step)
      : gradient(o), adapts(o.always_adapt || o.weight_decay != 0), lr(o.lr), averages(o) {
    const double c1 = o.bias_correction ? 1 - power(o.beta1, step) : 1;
    const double c2 = o.bias_correction ? 1 - power(o.beta2, step) : 1;
    const double root = __builtin_sqrt(c2);
    correction = static_cast<T>(root / c1);
    eps = static_cast<T>(o.eps * root);
  }

  template <class V>
  FASTOPT_HOST_DEVICE void operator()(V&, V grad, V& exp_avg, V& exp_avg_sq) const {
    averages.take_in(grad, exp_avg, exp_avg_sq);
  }

  template <class V>
  FASTOPT_HOST_DEVICE V direction(V param, V exp_avg, V exp_avg_sq) const {
    V u = correction * (exp_avg / (sqrt(exp_avg_sq) + eps));
    if (gradient.decays) u = u + gradient.weight_decay * param;
    return u;
  }
};

FASTOPT_TARGET_END
