// AdaGrad: Duchi, Hazan, Singer 2011, with torch's decay of the rate, lr / (1 + (t - 1) lr_decay).
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct AdagradOptions {
  double lr = 1e-2, lr_decay = 0, weight_decay = 0, eps = 1e-10;
  bool maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("lr_decay", lr_decay, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("eps", eps, Range::non_negative);
    v("maximize", maximize);
  }
};

template <class T>
struct Adagrad {
  using Options = AdagradOptions;
  static constexpr const char* name = "adagrad";
  static constexpr int state_count = 1;
  static constexpr int required = 1;
  static constexpr const char* states[state_count] = {"sum"};
  static constexpr unsigned squares = 0b001;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  T lr, eps;

  FASTOPT_HOST_DEVICE Adagrad(const Options& o, double step)
      : gradient(o),
        lr(static_cast<T>(o.lr / (1 + (step - 1) * o.lr_decay))),
        eps(static_cast<T>(o.eps)) {}

  template <class V>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& sum) const {
    V g = gradient(param, grad);
    sum = sum + g * g;
    param = param - lr * (g / (sqrt(sum) + eps));
  }
};

FASTOPT_TARGET_END
