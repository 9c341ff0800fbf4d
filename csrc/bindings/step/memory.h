// The tensors of a step: read where they lie, and held where they could go away meanwhile.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bindings/step/stepped.h"
#include "bindings/tensor.h"

namespace fastopt {

namespace py = pybind11;

// Why the kernels do not take a parameter, for people.
struct Unfit {
  std::string reason;
};

// Thrown by a light step, before anything is written.
struct MustHold {};

enum class Kind {
  light,  // holds nothing, as no Python code runs beside it; throws MustHold where that is not so
  whole,
  dry,  // makes no state, copies nothing, and counts a parameter without gradient as if it had one
};

class Memory {
 public:
  // For a step of `optimizer`, which is borrowed.
  void begin(const Stepped& optimizer, Kind kind);
  void clear();

  const Stepped& optimizer() const { return *optimizer_; }
  bool dry() const { return kind_ == Kind::dry; }
  bool holds() const { return kind_ == Kind::whole; }

  // Whether gradients can be read where torch keeps them: in a light step, beside which nobody can
  // take them away, and without a mode that is to be asked for them.
  void find_grads(bool allowed) {
    finds_grads_ = allowed && kind_ == Kind::light && torch_.finds_grads();
  }
  bool finds_grads() const { return finds_grads_; }

  // Says that Python code is about to run, or memory to be worked on with the GIL released.
  void must_hold() const {
    if (kind_ == Kind::light) throw MustHold{};
  }

  PyObject* hold(py::object object);

  // Reads a tensor's memory; false as TorchReader::read.
  bool look(PyObject* tensor, View* view) {
    if (!torch_.read(tensor, view)) return false;
    return !holds() || element_count(*view) == 0 || hold_storage(tensor, view);
  }

  // Throws where its storage was freed; else why it could not be read.
  std::string unreadable(PyObject* tensor) const;

  // That what is held has not been freed all the same. A tensor may have got another storage; then
  // the step works on the one that it had.
  void check() const;

 private:
  bool hold_storage(PyObject* tensor, View* view);

  struct Seen {
    PyObject *tensor, *storage;  // which are held
    const void* data;
  };

  const TorchReader& torch_ = TorchReader::get();
  const Stepped* optimizer_ = nullptr;
  Kind kind_ = Kind::light;
  bool finds_grads_ = false;
  std::vector<py::object> held_;  // tensors and their storages, dense copies, parts of DTensors
  std::vector<Seen> seen_;        // what of it is memory
};

}  // namespace fastopt
