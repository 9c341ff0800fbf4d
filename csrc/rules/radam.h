// RAdam: Liu et al. 2020, algorithm 2, in torch's form: rectified where the length of the average
// is over 5, with eps added to the root before the root's correction.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct RAdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled_weight_decay = false, maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("betas", beta1, beta2, Range::unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("decoupled_weight_decay", decoupled_weight_decay);
    v("maximize", maximize);
  }
};

template <class T>
struct RAdam {
  using Options = RAdamOptions;
  static constexpr const char* name = "radam";
  static constexpr int state_count = 2;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"exp_avg", "exp_avg_sq"};
  static constexpr unsigned squares = 0b10;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  Averages<T> averages;
  T step_size, eps, shrinkage;
  bool adaptive;

  FASTOPT_HOST_DEVICE RAdam(const Options& o, double step)
      : gradient(o),
        averages(o),
        eps(static_cast<T>(o.eps)),
        shrinkage(static_cast<T>(o.decoupled_weight_decay ? gradient.decouple(o) : 1)) {
    const double rate = o.lr / (1 - power(o.beta1, step)), factor = rectified(o.beta2, step);
    adaptive = factor > 0;
    step_size = static_cast<T>(adaptive ? rate * factor : rate);
  }

  template <class V>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& exp_avg, V& exp_avg_sq) const {
    V g = gradient(param, grad);
    averages.take_in(g, exp_avg, exp_avg_sq);
    V update = exp_avg;
    if (adaptive) update = exp_avg / (sqrt(exp_avg_sq) + eps);
    param = shrinkage * param - step_size * update;
  }

 private:
  // The rectification times the root's correction; 0 where the variance is not known yet.
  FASTOPT_HOST_DEVICE static double rectified(double beta2, double step) {
    const double decay = power(beta2, step), c2 = 1 - decay;
    const double longest = 2 / (1 - beta2) - 1, length = longest - 2 * step * decay / c2;
    if (!(length > 5)) return 0;
    const double r =
        (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length);
    return __builtin_sqrt(r) * __builtin_sqrt(c2);
  }
};

FASTOPT_TARGET_END
