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

enum class Kind {
  light,    // holds nothing, as nothing runs beside it
  counted,  // holds storages by torch's own counts, as no Python code runs beside its reading
  whole,    // holds tensors and storages as Python would
  dry,      // makes no state, copies nothing, and counts a parameter without gradient as if it had
            // one
};

// Thrown by a light or counted step, before anything is written, where it is to be of another kind.
struct MustHold {
  Kind kind;
};

class Memory {
 public:
  // For a step of `optimizer`, which is borrowed.
  void begin(const Stepped& optimizer, Kind kind);
  void clear();

  const Stepped& optimizer() const { return *optimizer_; }
  bool dry() const { return kind_ == Kind::dry; }
  bool holds() const { return kind_ == Kind::counted || kind_ == Kind::whole; }
  bool is_light() const { return kind_ == Kind::light; }  // which meets no devices
  // Whether no Python code runs beside the reading.
  bool alone() const { return kind_ == Kind::light || kind_ == Kind::counted; }

  // Whether gradients can be read where torch keeps them: alone, so that nobody can take them away,
  // and without a mode that is to be asked for them.
  void find_grads(bool allowed) { finds_grads_ = allowed && alone() && torch_.finds_grads(); }
  bool finds_grads() const { return finds_grads_; }

  // Says that Python code is about to run.
  void must_hold() const {
    if (alone()) throw MustHold{Kind::whole};
  }

  // Says that memory is to be worked on with the GIL released.
  void will_release() const {
    if (kind_ == Kind::light) throw MustHold{releasing_kind()};
  }
  static Kind releasing_kind() {
    return TorchReader::get().counts_references() ? Kind::counted : Kind::whole;
  }

  PyObject* hold(py::object object);

  // Reads a tensor's memory; false as TorchReader::read.
  bool look(PyObject* tensor, View* view) {
    if (kind_ == Kind::counted) return look_counted(tensor, view);
    if (!torch_.read(tensor, view)) return false;
    return kind_ != Kind::whole || element_count(*view) == 0 || hold_storage(tensor, view);
  }

  // Likewise of a parameter's gradient, where torch keeps it, once this finds_grads().
  bool look_at_grad(PyObject* param, View* view) {
    TensorLayout::Storage* storage = nullptr;
    if (!torch_.read_grad(param, view, &storage)) return false;
    if (kind_ == Kind::counted) count(storage);
    return true;
  }

  // Throws where its storage was freed; else why it could not be read.
  std::string unreadable(PyObject* tensor) const;

  // That what is held has not been freed all the same. A tensor may have got another storage; then
  // the step works on the one that it had.
  void check() const;

 private:
  bool hold_storage(PyObject* tensor, View* view);

  bool look_counted(PyObject* tensor, View* view) {
    TensorLayout::Storage* storage = nullptr;
    if (torch_.read_in_place(tensor, view, &storage)) {
      count(storage);
      return true;
    }
    if (!torch_.read(tensor, view)) return false;
    if (element_count(*view) > 0) must_hold();
    return true;
  }
  void count(TensorLayout::Storage* storage) {
    counted_.push_back({storage, storage->data});
    StorageCounts::hold(storage);
  }

  struct Seen {
    PyObject *tensor, *storage;  // which are held
    const void* data;
  };
  struct Counted {
    TensorLayout::Storage* storage;
    const char* data;
  };

  const TorchReader& torch_ = TorchReader::get();
  const Stepped* optimizer_ = nullptr;
  Kind kind_ = Kind::light;
  bool finds_grads_ = false;
  std::vector<py::object> held_;  // tensors and their storages, dense copies, parts of DTensors
  std::vector<Seen> seen_;        // what of it is memory
  std::vector<Counted> counted_;  // storages that a counted step holds
};

}  // namespace fastopt
