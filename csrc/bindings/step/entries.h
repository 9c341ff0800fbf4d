// What a parameter keeps from step to step: its entry of optimizer.state, found or made.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/rules.h"
#include "bindings/step/candidates.h"
#include "bindings/step/memory.h"
#include "bindings/step/place.h"
#include "bindings/step/plan.h"

namespace fastopt {

// The names of all that parameters of a rule may keep, made once.
struct Kept {
  explicit Kept(const AnyRule& rule);

  std::vector<PyObject*> states, scales;  // by the rule's states; scales: of those in 8 bits
  std::vector<PyObject*> numbers;         // that the rule keeps beside the step
  PyObject* product = nullptr;            // where the rule keeps one
  // Of every rule.
  PyObject* step = PyUnicode_InternFromString("step");
  PyObject* param_low = PyUnicode_InternFromString("param_low");
  PyObject* master = PyUnicode_InternFromString("master");
  PyObject* rounding = PyUnicode_InternFromString("rounding");
  PyObject* ema = PyUnicode_InternFromString("ema");
  PyObject* ema_weight = PyUnicode_InternFromString("ema_weight");

  // What a state is stored in, as Python says: a DType, -1 for codes of 8 bits, or not asked yet.
  // By what the group wants, whether there are masters, whether codes are worth it, which states
  // are used, the parameter's dtype and the state.
  static constexpr signed char unasked = -2;
  static constexpr int codes = -1;
  signed char& stored_in(const Plan& plan, bool worth, DType param, int state);

 private:
  std::vector<signed char> stored_in_;
};

// One parameter's state. Its entries are mostly asked for in the order in which they stand, so the
// next one is tried before the hash. New ones are made, but not yet inserted.
class Entries {
 public:
  Entries(Memory& memory, const Kept& kept, const Plan& plan, const Place& place,
          const Candidate& candidate)
      : memory_(memory),
        kept_(kept),
        plan_(plan),
        place_(place),
        param_(candidate.param),
        dict_(candidate.entries) {
    if (dict_ != nullptr && !is_plain_dict(dict_)) memory.must_hold();
  }

  // Whether all that is there has been asked for, in its order.
  bool at_end() const {
    Py_ssize_t position = position_;
    return dict_ == nullptr || !PyDict_Next(dict_, &position, nullptr, nullptr);
  }

  bool empty() const { return dict_ == nullptr || PyDict_GET_SIZE(dict_) == 0; }

  // nullptr where it is missing or None.
  PyObject* find(PyObject* name) {
    if (dict_ == nullptr) return nullptr;
    PyObject *key, *value;
    Py_ssize_t position = position_;
    if (!PyDict_Next(dict_, &position, &key, &value) || key != name) return lookup(dict_, name);
    position_ = position;
    return value == Py_None ? nullptr : value;
  }

  // These make it; nullptr in a dry step for one that is not there yet.
  PyObject* find_or_make(PyObject* name) {
    PyObject* tensor = find(name);
    return tensor != nullptr || memory_.dry() ? tensor : make(name);
  }
  PyObject* find_or_begin(PyObject* name);  // KeyError if there are others already

  PyObject* make(PyObject* name);
  PyObject* find_made(PyObject* name) const { return made_ ? lookup(made_.ptr(), name) : nullptr; }

  // The state as the options want it today, with its scales.
  PyObject* convert(PyObject* name);
  void drop(PyObject* name);
  py::object take_made() { return std::move(made_); }  // a dict; null if none was

 private:
  void check_no_capture(PyObject* name) const;

  Memory& memory_;
  const Kept& kept_;
  const Plan& plan_;
  const Place& place_;
  PyObject *param_, *dict_;  // dict_: null where there is none yet
  Py_ssize_t position_ = 0;
  py::object made_;
};

}  // namespace fastopt
