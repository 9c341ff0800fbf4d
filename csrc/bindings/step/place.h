// Where a parameter lies: its part in this process, on which device, how its memory is laid out.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/step/capture.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/memory.h"
#include "bindings/step/plan.h"
#include "bindings/tensor.h"

namespace fastopt {

// What the places of a step's parameters have in common.
struct Places {
  Layouts layouts;
  Captures captures;

  void clear() {
    layouts.clear();
    captures.clear();
  }
};

struct CopyBack {
  py::object to, from;
};

class Place {
 public:
  // Throws Unfit where no kernels take it.
  Place(Memory& memory, Places& places, const Plan& plan, PyObject* param);

  // The memory of a gradient or state, laid out like the parameter; of a copy if it is laid out
  // otherwise.
  View laid_out(PyObject* whole, const char* name, bool written);

  bool is_like_param(const View& its) const;  // such memory already

  // Of a tensor that must be cut up as the parameter is, what lies in this process.
  PyObject* local_like_param(PyObject* tensor, const char* name);

  int layout = Layouts::plain;
  int device = 0;
  bool captured = false;      // by a graph
  PyObject* local = nullptr;  // all of the parameter, unless it is a DTensor
  PyObject* like = nullptr;   // what `view` is of: that, or a dense copy
  View view{};
  py::object distribution;  // null if it is no DTensor
  std::vector<CopyBack> copies;

 private:
  void find_local(Layouts& layouts, PyObject* param);
  void find_device(Captures& captures, const Plan& plan);
  PyObject* dense_copy(PyObject* tensor, py::handle like, bool written);

  Memory& memory_;
};

// Every process must list the same layouts, even if it has no gradient for a parameter.
void note_layout(const Memory& memory, Layouts& layouts, PyObject* param);

}  // namespace fastopt
