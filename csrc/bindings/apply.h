// fastopt.kernels' way into C++: a rule on whole arrays, all of them checked before one is written.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>

namespace fastopt {

// rule     the rule's name
// arrays   one list per argument: params, grads, then each state of the rule (or None)
// names    what the caller calls the first two, for messages; indexed ("grad[2]") if `indexed`
// steps    one number per parameter
// options  hyperparameters by name
// grad_scale  what the gradients are divided by, or None
// copy_to  a list of arrays that are to be the params, rounded, or None; those on a CUDA device are
//          left to the caller
void apply(const std::string& rule, const pybind11::list& arrays, const pybind11::list& steps,
           const pybind11::dict& options, bool indexed, int threads,
           const std::array<std::string, 2>& names, const pybind11::object& grad_scale,
           const pybind11::object& copy_to);

}  // namespace fastopt
