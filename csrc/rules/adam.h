// Adam: Kingma & Ba 2015, algorithm 1. AMSGrad: Reddi et al. 2018. AdamW: Loshchilov & Hutter 2019,
// algorithm 2, with torch's decay, param (1 - lr weight_decay). Cautious decay: Chen et al. 2025.
//
// The bias corrections of the moments are folded into two scalars, as at the end of section 2 of
// Kingma & Ba, and eps with them, which saves a division per element:
//   lr (m / c1) / (sqrt(v / c2) + eps) = (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2))
//   lr (m / c1) / sqrt(v / c2 + eps)   = (lr sqrt(c2) / c1) m / sqrt(v + eps c2)
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool amsgrad = false, decoupled_weight_decay = false, bias_correction = true,
       eps_inside_sqrt = false, maximize = false, cautious_decay = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("amsgrad", amsgrad);
    v("decoupled_weight_decay", decoupled_weight_decay);
    v("bias_correction", bias_correction);
    v("eps_inside_sqrt", eps_inside_sqrt);
    v("maximize", maximize);
    v("cautious_decay", cautious_decay);
  }
};

template <class T>
struct Adam {
  using Options = AdamOptions;
  static constexpr const char* name = "adam";
  static constexpr int state_count = 3;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  static constexpr unsigned squares = 0b110;
  static constexpr bool waits = true;
  static bool uses(const Options& o, int state) { return state < 2 || o.amsgrad; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  Averages<T> averages;
  T step_size, eps, shrinkage;
  bool eps_inside_sqrt, cautious;

  FASTOPT_HOST_DEVICE Adam(const Options& o, double step)
      : gradient(o),
        averages(o),
        shrinkage(static_cast<T>(o.decoupled_weight_decay ? gradient.decouple(o) : 1)),
        eps_inside_sqrt(o.eps_inside_sqrt),
        cautious(o.cautious_decay) {
    double c1 = o.bias_correction ? 1 - power(o.beta1, step) : 1;
    double c2 = o.bias_correction ? 1 - power(o.beta2, step) : 1;
    double root = __builtin_sqrt(c2);
    step_size = static_cast<T>(o.lr * root / c1);
    eps = static_cast<T>(o.eps * (o.eps_inside_sqrt ? c2 : root));
  }

  template <class V, class Maximum, class Meanwhile>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& exp_avg, V& exp_avg_sq,
                                      Maximum& max_exp_avg_sq, Meanwhile meanwhile) const {
    V g = gradient(param, grad);
    averages.take_in(g, exp_avg, exp_avg_sq);
    V v = exp_avg_sq;
    if constexpr (present<Maximum>) v = max_exp_avg_sq = maximum(max_exp_avg_sq, v);
    V denom = denominator(v, eps, eps_inside_sqrt, meanwhile);
    V update = step_size * (exp_avg / denom);
    param = shrunk(param, update, shrinkage, cautious) - update;
  }
};

FASTOPT_TARGET_END
