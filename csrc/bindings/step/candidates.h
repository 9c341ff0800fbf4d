// The parameters of a step with their gradients and states, as they are when the reading begins.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/step/memory.h"
#include "bindings/step/plan.h"

namespace fastopt {

struct Candidate {
  PyObject* param = nullptr;    // which the plan's tuple holds
  PyObject* copy = nullptr;     // likewise; nullptr if it is not copied
  PyObject* entries = nullptr;  // of the state; held, unless no Python code runs beside the reading
  py::object grad;              // null where it is to be read where torch keeps it
  py::object held;
  bool has_grad = false;  // without one, only its layout counts
};

class Candidates {
 public:
  // Collects those of all plans, and finds plans that the kernels do not take because a parameter
  // comes twice.
  void collect(Plans& plans, const Memory& memory);
  void clear() { list_.clear(); }

  const Candidate& operator[](std::size_t i) const { return list_[i]; }

 private:
  void collect(const Plan& plan, PyObject* state, const Memory& memory);
  void find_entries(PyObject* state, const Memory& memory, Candidate& candidate);
  void hold_entries();
  bool have_twice(const Plan* first, const Plan* end);

  std::vector<Candidate> list_;
  Py_ssize_t position_ = 0;  // in optimizer.state
  bool holds_ = false;       // entries
  // Whether parameters came in another order than their states. While they do not, none can come
  // twice: the keys of a dict differ.
  bool out_of_order_ = false;
  std::vector<PyObject*> sorted_;
};

}  // namespace fastopt
