// What an update rule is, and what all of them share.
//
// A rule is a class template over the compute type T (float or double):
//
//   Options        its hyperparameters as they stand in a parameter group, in double;
//                  visit() names each for the bindings, with the range that is accepted
//   name           what Python calls it
//   states         the state_count arrays that it keeps, by their names in torch's state_dict
//   squares        bit i is set if states[i] is a sum or average of squares, or another divisor
//                  that is never negative
//   required       how many of the states, from the first on, are needed whatever the options
//                  are
//   uses()         whether these options need states[i]
//   counts_steps() whether these options need the number of the step
//   Rule(o, step)  rounds every scalar to T, once; `step` is 1 for the first update
//   operator()     the update of one vector of elements: param, grad, then the states in order; a
//                  rule that has a Gradient gets grad turned round by its sign (rules/update.h)
//
// A rule that takes a root may say so, for a loop that has something else to do while that is
// waited for (cpu/coded.h):
//
//   waits          true; operator() has one more argument, a function, which it calls once the
//                  root is under way and before it is used
//
// A rule may keep one number more for each parameter, a product to which each step has a factor:
//
//   product        its name in torch's state_dict, where it begins at 1
//   factor(o, step)
//   Rule(o, step, product)  in the place of Rule(o, step); this step's factor is in the product
//
// The kernels' callers advance it by next_product(), on the CPU or, where it lies there, on a
// device.
//
// A rule with norms, which stands in the second list, steps by lr |param| / |u| u, with the norms
// of the whole tensor and 1 for their ratio where either is 0. In it,
//
//   operator()     updates the states, all of which it always needs, and leaves the parameter alone
//   direction()    the update u: of param, then the states, as they are after operator()
//   lr             in double, as it meets the ratio there
//
// A state that the options do not use arrives in operator() as Absent, so what depends on it is
// decided at compile time; the other options are run-time members, uniform over the loop.
//
// `V` in operator() is a SIMD vector on a CPU and a one-lane wrapper on the scalar target and in
// CUDA. Arithmetic on it is correctly rounded and is never contracted to fused multiply-adds, so
// the expressions here, in this order, are the specification that fastopt.reference repeats.
#pragma once

#include "numeric/power.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The accepted range of a hyperparameter; NaN lies in none.
enum class Range { any, non_negative, unit, closed_unit };  // unit: [0, 1), closed: [0, 1]

// Stands for a state that is not kept.
struct Absent {};
template <class State>
constexpr bool present = true;
template <>
constexpr bool present<Absent> = false;

// The gradient that a rule descends along: turned round for maximize, with L2 decay added.
template <class T>
struct Gradient {
  T sign, weight_decay;
  bool decays;

  template <class Options>
  FASTOPT_HOST_DEVICE explicit Gradient(const Options& o)
      : sign(o.maximize ? T(-1) : T(1)),
        weight_decay(static_cast<T>(o.weight_decay)),
        decays(o.weight_decay != 0.0) {}

  // Takes the decay out of it. What the parameter is multiplied by instead: 1 for no decay, even at
  // an infinite rate.
  template <class Options>
  FASTOPT_HOST_DEVICE double decouple(const Options& o) {
    decays = false;
    return o.weight_decay != 0.0 ? 1 - o.lr * o.weight_decay : 1;
  }

  template <class V>
  FASTOPT_HOST_DEVICE V operator()(V param, V grad) const {
    return decays ? grad + weight_decay * param : grad;
  }
};

// The two averages of Adam and its kin: of the gradient and of its square.
template <class T>
struct Averages {
  T beta1, one_minus_beta1, beta2, one_minus_beta2;

  template <class Options>
  FASTOPT_HOST_DEVICE explicit Averages(const Options& o)
      : beta1(static_cast<T>(o.beta1)),
        one_minus_beta1(static_cast<T>(1 - o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        one_minus_beta2(static_cast<T>(1 - o.beta2)) {}

  template <class V>
  FASTOPT_HOST_DEVICE void take_in(V g, V& exp_avg, V& exp_avg_sq) const {
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g;
    exp_avg_sq = beta2 * exp_avg_sq + one_minus_beta2 * (g * g);
  }
};

template <class Rule, class = void>
constexpr bool waits_for_root = false;
template <class Rule>
constexpr bool waits_for_root<Rule, decltype(void(Rule::waits))> = true;

// Stands for what is to be done meanwhile where nothing is.
struct Nothing {
  FASTOPT_HOST_DEVICE void operator()() const {}
};

// What a rule turns its gradient round by.
template <class Rule, class = void>
constexpr bool has_gradient = false;
template <class Rule>
constexpr bool has_gradient<Rule, decltype(void(Rule::gradient))> = true;

template <class T, class Rule>
FASTOPT_HOST_DEVICE T sign_of([[maybe_unused]] const Rule& rule) {
  if constexpr (has_gradient<Rule>) {
    return rule.gradient.sign;
  } else {
    return 1;
  }
}

template <class Rule, class = void>
constexpr bool keeps_product = false;
template <class Rule>
constexpr bool keeps_product<Rule, decltype(void(Rule::product))> = true;

// The rule of a step. Only one that keeps a product asks for that.
template <class Rule>
FASTOPT_HOST_DEVICE Rule rule_at(const typename Rule::Options& o, double step,
                                 [[maybe_unused]] double product) {
  if constexpr (keeps_product<Rule>) {
    return Rule(o, step, product);
  } else {
    return Rule(o, step);
  }
}

// A product with a step's factor in it, in the arithmetic of the type that it is stored in.
template <class Rule, class Stored>
FASTOPT_HOST_DEVICE Stored next_product(Stored product, const typename Rule::Options& o,
                                        double step) {
  return product * static_cast<Stored>(Rule::factor(o, step));
}

// A parameter after decoupled decay by a factor: cautious decay holds where the update that is
// taken from it and the parameter do not differ in sign.
template <class T, class V>
FASTOPT_HOST_DEVICE V shrunk(V param, V update, T factor, bool cautious) {
  const V zero(0), whole = factor * param;
  if (!cautious) return whole;
  const V along = select(zero < update, param, select(update < zero, zero - param, zero));
  return select(along >= zero, whole, param);
}

// The larger one; NaN if either is.
template <class V>
FASTOPT_HOST_DEVICE V maximum(V a, V b) {
  return select((a >= b) | (a != a), a, b);
}

// sqrt(v) + eps or sqrt(v + eps), written with one root: the compiler would turn a choice between
// two roots into both of them and a blend.
template <class V, class T, class Meanwhile>
FASTOPT_HOST_DEVICE V denominator(V v, T eps, bool eps_inside_sqrt, Meanwhile meanwhile) {
  V root = sqrt(eps_inside_sqrt ? v + eps : v);
  meanwhile();
  return eps_inside_sqrt ? root : root + eps;
}

FASTOPT_TARGET_END
