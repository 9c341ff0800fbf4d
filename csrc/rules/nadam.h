// NAdam: Dozat 2016, algorithm 2, with torch's schedule of the momentum.
//
// The corrections are folded into three scalars, as Adam's are; with mu and next_mu the momentum of
// this step and of the next, P the product of all so far and c2 the correction of the root,
//   lr ((1 - mu) / (1 - P) g + next_mu / (1 - P next_mu) m) / (sqrt(v / c2) + eps)
//   = (of_grad g + of_avg m) / (sqrt(v) + eps sqrt(c2))
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct NAdamOptions {
  double lr = 2e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, momentum_decay = 4e-3;
  bool decoupled_weight_decay = false, maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("momentum_decay", momentum_decay, Range::non_negative);
    v("decoupled_weight_decay", decoupled_weight_decay);
    v("maximize", maximize);
  }
};

template <class T>
struct NAdam {
  using Options = NAdamOptions;
  static constexpr const char* name = "nadam";
  static constexpr int state_count = 2;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"exp_avg", "exp_avg_sq"};
  static constexpr unsigned squares = 0b10;
  static constexpr bool waits = true;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  static constexpr const char* product = "mu_product";
  FASTOPT_HOST_DEVICE static double factor(const Options& o, double step) {
    constexpr double log = -0.040821994520255166;  // of 0.96
    return o.beta1 * (1 - 0.5 * exponential(step * o.momentum_decay * log));
  }

  Gradient<T> gradient;
  Averages<T> averages;
  T of_grad, of_avg, eps, shrinkage;

  FASTOPT_HOST_DEVICE NAdam(const Options& o, double step, double mu_product)
      : gradient(o),
        averages(o),
        shrinkage(static_cast<T>(o.decoupled_weight_decay ? gradient.decouple(o) : 1)) {
    const double mu = factor(o, step), next_mu = factor(o, step + 1);
    const double root = __builtin_sqrt(1 - power(o.beta2, step));
    of_grad = static_cast<T>(o.lr * (1 - mu) / (1 - mu_product) * root);
    of_avg = static_cast<T>(o.lr * next_mu / (1 - mu_product * next_mu) * root);
    eps = static_cast<T>(o.eps * root);
  }

  template <class V, class Meanwhile>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& exp_avg, V& exp_avg_sq,
                                      Meanwhile meanwhile) const {
    V g = gradient(param, grad);
    averages.take_in(g, exp_avg, exp_avg_sq);
    V root = sqrt(exp_avg_sq);
    meanwhile();
    V update = of_grad * g + of_avg * exp_avg;
    param = shrinkage * param - update / (root + eps);
  }
};

FASTOPT_TARGET_END
