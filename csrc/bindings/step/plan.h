// What a step reads of a parameter group, before it looks at any parameter.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/cuda.h"
#include "bindings/rules.h"
#include "bindings/step/stepped.h"

namespace fastopt {

namespace py = pybind11;

// The value of a key; nullptr where it is missing or None.
inline PyObject* lookup(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return value == Py_None ? nullptr : value;
}

// Whether an object can be read as a dict: not another mapping, and none that reads its items in a
// way of its own.
inline bool is_plain_dict(PyObject* object) {
  return PyDict_CheckExact(object) ||
         (PyDict_Check(object) &&
          Py_TYPE(object)->tp_as_mapping->mp_subscript == PyDict_Type.tp_as_mapping->mp_subscript);
}

// A group or a state as a dict to read. Throws TypeError for what is no mapping.
inline py::object plain_dict(py::handle mapping, const Stepped& optimizer) {
  if (is_plain_dict(mapping.ptr())) return py::reinterpret_borrow<py::object>(mapping);
  return optimizer.as_dict(mapping);
}

// What a group wants its states stored in; of anything but these names, whoever checks options
// makes one of them, or raises.
enum class StateDtype { own, float32, bfloat16, float16, int8, unknown };

// What a group asks for around the rule.
struct TailOptions {
  bool clips = false, error_if_nonfinite = false, averages = false, bias_correction = false;
  double max_grad_norm = 0, ema_decay = 0;

  static TailOptions of(PyObject* group);

  bool clips_alike(const TailOptions& other) const {
    return clips == other.clips && max_grad_norm == other.max_grad_norm &&
           error_if_nonfinite == other.error_if_nonfinite;
  }
};

// A group as a step takes it.
struct Plan {
  py::object group, params;  // a dict, a tuple
  py::object copies;         // a tuple, of what each parameter is copied to; null if none is
  py::object named;          // the group as the program has it, which may be another mapping
  AnyRule* rule = nullptr;   // with the group's options
  TailOptions tail;
  DeviceNumber lr;
  StateDtype wanted = StateDtype::own;
  unsigned used = 0;                            // a bit for each state that the options use
  bool has_norms = false, keeps_state = false;  // keeps_state: anything from step to step
  bool has_master = false, rounds_at_random = false;
  bool capturable = false, counts_on_device = false;
  bool lr_on_host = false;         // in a tensor
  const char* to_torch = nullptr;  // why all of it needs torch's step
  std::size_t begin = 0, end = 0;  // its candidates
};

// All groups of a step. All are read before any memory is: a number or a flag may be an object
// whose Python code does as it pleases, with the groups, too.
class Plans {
 public:
  explicit Plans(const std::string& rule);

  // `watched`: somebody is to see torch's operations. `for_devices`: some parameters may lie on
  // one.
  void read(const Stepped& optimizer, bool watched, bool for_devices);
  void clear();

  TailOptions tail() const { return plans_.empty() ? TailOptions() : plans_.back().tail; }

  Plan* begin() { return plans_.data(); }
  Plan* end() { return begin() + plans_.size(); }

 private:
  AnyRule& rule_of_group(std::size_t group);
  Plan plan_of(py::object group, py::handle named, const Stepped& optimizer, bool watched,
               bool for_devices);

  const std::string rule_name_;
  const bool counts_itself_;                     // steps, which torch's class does not
  std::vector<std::unique_ptr<AnyRule>> rules_;  // one a group, kept for their memory
  std::vector<Plan> plans_;
};

}  // namespace fastopt
