// What an update rule is, and what all of them share.
//
// A rule is a class template over the compute type T (float or double):
//
//   Options        its hyperparameters as they stand in a parameter group, in double;
//                  visit() names each for the bindings, with the range that is accepted
//   name           what Python calls it
//   states         the state_count arrays that it keeps, by their names in torch's state_dict
//   uses()         whether these options touch states[i] at all
//   counts_steps() whether these options need the number of the step
//   Rule(o, step)  rounds every scalar to T, once; `step` is 1 for the first update
//   operator()     the update of one vector of elements: param, grad, then the states in order
//
// `V` in operator() is a SIMD vector on a CPU and a one-lane wrapper on the scalar target and in
// CUDA. Arithmetic on it is correctly rounded and is never contracted to fused multiply-adds, so
// the expressions here, in this order, are the specification that fastopt.reference repeats.
#pragma once

#include "numeric/power.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The accepted range of a hyperparameter; NaN lies in none.
enum class Range { any, non_negative, unit };  // unit: [0, 1)

// The gradient that a rule descends along: turned round for maximize, with L2 decay added.
template <class T>
struct Gradient {
  T weight_decay;
  bool decays, maximize;

  template <class Options>
  FASTOPT_HOST_DEVICE explicit Gradient(const Options& o)
      : weight_decay(static_cast<T>(o.weight_decay)),
        decays(o.weight_decay != 0.0),
        maximize(o.maximize) {}

  template <class V>
  FASTOPT_HOST_DEVICE V operator()(V param, V grad) const {
    if (maximize) grad = -grad;
    if (decays) grad = grad + weight_decay * param;
    return grad;
  }
};

FASTOPT_TARGET_END
