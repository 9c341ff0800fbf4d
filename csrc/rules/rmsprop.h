// RMSProp: Tieleman & Hinton 2012, lecture 6e; centered as in Graves 2013, equations 38 to 41.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct RMSpropOptions {
  double lr = 1e-2, alpha = 0.99, eps = 1e-8, weight_decay = 0, momentum = 0;
  bool centered = false, eps_inside_sqrt = false, maximize = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("alpha", alpha, Range::non_negative);
    v("eps", eps, Range::non_negative);
    v("weight_decay", weight_decay, Range::non_negative);
    v("momentum", momentum, Range::non_negative);
    v("centered", centered);
    v("eps_inside_sqrt", eps_inside_sqrt);
    v("maximize", maximize);
  }
};

template <class T>
struct RMSprop {
  using Options = RMSpropOptions;
  static constexpr const char* name = "rmsprop";
  static constexpr int state_count = 3;
  static constexpr int required = 1;
  static constexpr const char* states[state_count] = {"square_avg", "grad_avg", "momentum_buffer"};
  static constexpr unsigned squares = 0b001;
  static constexpr bool waits = true;
  static bool uses(const Options& o, int state) {
    return state == 0 || (state == 1 ? o.centered : o.momentum != 0);
  }
  static bool counts_steps(const Options&) { return true; }

  Gradient<T> gradient;
  T lr, alpha, one_minus_alpha, eps, momentum;
  bool eps_inside_sqrt;

  FASTOPT_HOST_DEVICE RMSprop(const Options& o, double)
      : gradient(o),
        lr(static_cast<T>(o.lr)),
        alpha(static_cast<T>(o.alpha)),
        one_minus_alpha(static_cast<T>(1 - o.alpha)),
        eps(static_cast<T>(o.eps)),
        momentum(static_cast<T>(o.momentum)),
        eps_inside_sqrt(o.eps_inside_sqrt) {}

  template <class V, class Average, class Buffer, class Meanwhile>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, V& square_avg, Average& grad_avg,
                                      Buffer& momentum_buffer, Meanwhile meanwhile) const {
    V g = gradient(param, grad);
    square_avg = alpha * square_avg + one_minus_alpha * (g * g);
    V avg = square_avg;
    if constexpr (present<Average>) {
      grad_avg = alpha * grad_avg + one_minus_alpha * g;
      avg = square_avg - grad_avg * grad_avg;
      avg = select(avg < V(0), V(0), avg);  // rounding can push a small variance below 0
    }
    V denom = denominator(avg, eps, eps_inside_sqrt, meanwhile);
    V update = g / denom;
    if constexpr (present<Buffer>) {
      momentum_buffer = momentum * momentum_buffer + update;
      update = momentum_buffer;
    }
    param = param - lr * update;
  }
};

FASTOPT_TARGET_END
