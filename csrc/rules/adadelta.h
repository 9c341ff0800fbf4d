// Adadelta: Zeiler 2012, algorithm 1, with torch's rate.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct AdadeltaOptions {
  double lr = 1, rho = 0.9, eps = 1e-6, weight_decay = 0;
  bool maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("rho", rho, Range::closed_unit);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("maximize", maximize);
  }
};

template <class T>
struct Adadelta {
  using Options = AdadeltaOptions;
  static constexpr const char* name = "adadelta";
  static constexpr int state_count = 2;
  static constexpr int required = 2;
  static constexpr const char* states[state_count] = {"square_avg", "acc_delta"};
  static constexpr unsigned squares = 0b11;
  static constexpr bool waits = true;
  static bool uses(const Options&, int) { return true; }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  T lr, rho, one_minus_rho, eps;

  FASTOPT_HOST_DEVICE Adadelta(const Options& o, double)
      : gradient(o),
        lr(static_cast<T>(o.lr)),
        rho(static_cast<T>(o.rho)),
        one_minus_rho(static_cast<T>(1 - o.rho)),
        eps(static_cast<T>(o.eps)) {}

  template <class V, class Meanwhile>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& square_avg, V& acc_delta,
                                      Meanwhile meanwhile) const {
    V g = gradient(param, grad);
    square_avg = rho * square_avg + one_minus_rho * (g * g);
    V moved = sqrt(acc_delta + eps), size = sqrt(square_avg + eps);
    meanwhile();
    V delta = moved / size * g;
    acc_delta = rho * acc_delta + one_minus_rho * (delta * delta);
    param = param - lr * delta;
  }
};

FASTOPT_TARGET_END
