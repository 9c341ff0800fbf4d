// One optimizer step: all groups read and checked, then all parameters written, in one call.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

namespace fastopt {

// Steps `optimizer`, a fastopt.optim optimizer whose update is the rule named `rule`.
//
// Every pointer is read anew. Nothing is written until every group has been read: the optimizer's
// state, its step counts and its parameters change together or not at all. Parameters that the
// kernels cannot take are collected and handed to optimizer._step_with_torch, before any is
// written.
//
// `grad_scale` and `found_inf` are what a torch.amp.GradScaler sets, tensors or None: the gradients
// count as divided by the one, and if the other is not 0, nothing is done at all. `norm` is that of
// all gradients, where the optimizer clips by it and has only some of them.
void step(const std::string& rule, const pybind11::object& optimizer, int threads,
          const pybind11::object& grad_scale, const pybind11::object& found_inf,
          std::optional<double> norm);

// Calls `function` while each of `params` has the one of `grads` in its .grad. Whatever ends the
// call, an interrupt included, they have their own again after it.
void call_with_grads(const pybind11::list& params, const pybind11::list& grads,
                     const pybind11::object& function);

// What such a step would leave to torch, a list of (group, parameter, reason), and writes nothing.
// Parameters without gradient count as if they had one like themselves.
pybind11::list left_over(const std::string& rule, const pybind11::object& optimizer);

}  // namespace fastopt
