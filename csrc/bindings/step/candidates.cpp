#include "bindings/step/candidates.h"

#include <algorithm>
#include <utility>

#include "bindings/step/ahead.h"
#include "bindings/tensor.h"

namespace fastopt {

void Candidates::collect(Plans& plans, const Memory& memory) {
  const py::object state = plain_dict(memory.optimizer().state(), memory.optimizer());
  position_ = 0;
  out_of_order_ = false;
  holds_ = !memory.alone();
  for (Plan& plan : plans) {
    plan.begin = list_.size();
    collect(plan, state.ptr(), memory);
    plan.end = list_.size();
  }
  if (!out_of_order_ || !have_twice(plans.begin(), plans.end())) return;
  for (Plan* plan = plans.begin(); plan != plans.end(); ++plan) {
    if (plan->to_torch == nullptr && have_twice(plan, plan + 1)) {
      plan->to_torch = "the same parameter twice in a group";
    }
  }
  if (have_twice(plans.begin(), plans.end())) {
    throw py::value_error("some parameters appear in more than one parameter group");
  }
}

void Candidates::collect(const Plan& plan, PyObject* state, const Memory& memory) {
  const TorchReader& torch = TorchReader::get();
  PyObject* const params = plan.params.ptr();
  const Py_ssize_t count = PyTuple_GET_SIZE(params);
  if (!plan.keeps_state) out_of_order_ = true;  // nothing says whether a parameter comes twice
  const bool looks_ahead = memory.finds_grads() && Ahead::is_worth(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (looks_ahead) look_ahead(torch, params, i);
    PyObject* const param = PyTuple_GET_ITEM(params, i);
    PyObject* const copy = plan.copies ? PyTuple_GET_ITEM(plan.copies.ptr(), i) : Py_None;
    Candidate candidate;
    candidate.param = param;
    candidate.copy = copy == Py_None ? nullptr : copy;
    if (!memory.finds_grads() || !torch.find_grad(param, &candidate.has_grad)) {
      candidate.grad = torch.grad(param);
      if (memory.dry() && candidate.grad.is_none()) {
        candidate.grad = py::reinterpret_borrow<py::object>(param);
      }
      candidate.has_grad = !candidate.grad.is_none();
    }
    if (!candidate.has_grad && !plan.tail.clips) continue;
    if (candidate.has_grad && plan.keeps_state) find_entries(state, memory, candidate);
    list_.push_back(std::move(candidate));
  }
}

// The entry of optimizer.state, if there is one. Entries mostly stand in the order of the
// parameters, so the next one is tried before the hash, which calls into Python. While none has
// been asked for, entries need not be held.
void Candidates::find_entries(PyObject* state, const Memory& memory, Candidate& candidate) {
  PyObject *key, *value;
  Py_ssize_t position = position_;
  if (PyDict_Next(state, &position, &key, &value) && key == candidate.param) {
    position_ = position;
  } else {
    out_of_order_ = true;
    hold_entries();
    value = PyDict_GetItemWithError(state, candidate.param);
    if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  }
  if (value != nullptr && holds_) {
    candidate.held = memory.alone() ? py::reinterpret_borrow<py::object>(value)
                                    : plain_dict(value, memory.optimizer());
    value = candidate.held.ptr();
  }
  candidate.entries = value;
}

void Candidates::hold_entries() {
  if (holds_) return;
  for (Candidate& it : list_) it.held = py::reinterpret_borrow<py::object>(it.entries);
  holds_ = true;
}

// Whether a parameter comes twice among those that the kernels may take.
bool Candidates::have_twice(const Plan* first, const Plan* end) {
  sorted_.clear();
  for (const Plan* plan = first; plan != end; ++plan) {
    if (plan->to_torch != nullptr) continue;
    for (std::size_t i = plan->begin; i < plan->end; ++i) {
      if (list_[i].has_grad) sorted_.push_back(list_[i].param);
    }
  }
  std::sort(sorted_.begin(), sorted_.end());
  return std::adjacent_find(sorted_.begin(), sorted_.end()) != sorted_.end();
}

}  // namespace fastopt
