// Stochastic gradient descent with momentum, Nesterov's momentum and the exponentially weighted
// form.
//
// Polyak 1964 (momentum); Nesterov 1983 in the form of Sutskever et al. 2013, rewritten for the
// looked-ahead parameters as torch.optim.SGD does.
#pragma once

#include "rules/rule.h"

FASTOPT_TARGET_BEGIN

struct SGDOptions {
  double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false, exponential_average = false, bias_correction = false,
       cautious_decay = false;

  template <class Visitor>
  void visit(Visitor& v) {
    v("lr", lr, Range::non_negative);
    v("momentum", momentum, Range::non_negative);
    v("dampening", dampening, Range::any);
    v("weight_decay", weight_decay, Range::non_negative);
    v("nesterov", nesterov);
    v("maximize", maximize);
    v("exponential_average", exponential_average);
    v("bias_correction", bias_correction);
    v("cautious_decay", cautious_decay);
  }
};

template <class T>
struct SGD {
  using Options = SGDOptions;
  static constexpr const char* name = "sgd";
  static constexpr int state_count = 1;
  static constexpr int required = 0;
  static constexpr const char* states[state_count] = {"momentum_buffer"};
  static constexpr unsigned squares = 0b000;
  static bool uses(const Options& o, int) { return o.momentum != 0; }
  static bool counts_steps(const Options& o) { return o.bias_correction; }

  Gradient<T> gradient;
  T lr, momentum, grad_weight, shrinkage;
  bool nesterov, starts_from_grad, cautious;

  FASTOPT_HOST_DEVICE SGD(const Options& o, double step)
      : gradient(o),
        lr(static_cast<T>(o.bias_correction ? o.lr / (1 - power(o.momentum, step)) : o.lr)),
        momentum(static_cast<T>(o.momentum)),
        grad_weight(static_cast<T>(1 - (o.exponential_average ? o.momentum : o.dampening))),
        shrinkage(static_cast<T>(o.cautious_decay ? gradient.decouple(o) : 1)),
        nesterov(o.nesterov),
        starts_from_grad(step == 1 && !o.exponential_average),
        cautious(o.cautious_decay) {}

  template <class V, class Buffer>
  FASTOPT_HOST_DEVICE void operator()(V& param, V grad, Buffer& momentum_buffer) const {
    V g = gradient(param, grad);
    if constexpr (present<Buffer>) {
      momentum_buffer = starts_from_grad ? g : momentum * momentum_buffer + grad_weight * g;
      g = nesterov ? g + momentum * momentum_buffer : momentum_buffer;
    }
    V update = lr * g;
    if (cautious) param = shrunk(param, update, shrinkage, true);
    param = param - update;
  }
};

FASTOPT_TARGET_END
