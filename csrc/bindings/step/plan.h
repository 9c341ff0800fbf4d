// What a step reads of a parameter group besides the rule's options.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/checks.h"
#include "bindings/step/stepped.h"

namespace fastopt {

namespace py = pybind11;

// The Python names that a step looks up, made once.
struct Names {
  PyObject* params = PyUnicode_InternFromString("params");
  PyObject* lr = PyUnicode_InternFromString("lr");
  PyObject* step = PyUnicode_InternFromString("step");
  PyObject* capturable = PyUnicode_InternFromString("capturable");
  PyObject* fused = PyUnicode_InternFromString("fused");
  PyObject* differentiable = PyUnicode_InternFromString("differentiable");
  PyObject* max_grad_norm = PyUnicode_InternFromString("max_grad_norm");
  PyObject* error_if_nonfinite = PyUnicode_InternFromString("error_if_nonfinite");
  PyObject* ema_decay = PyUnicode_InternFromString("ema_decay");
  PyObject* ema_bias_correction = PyUnicode_InternFromString("ema_bias_correction");
  PyObject* master_weights = PyUnicode_InternFromString("master_weights");
  PyObject* stochastic_rounding = PyUnicode_InternFromString("stochastic_rounding");
  PyObject* param_low = PyUnicode_InternFromString("param_low");
  PyObject* master = PyUnicode_InternFromString("master");
  PyObject* rounding = PyUnicode_InternFromString("rounding");
  PyObject* ema = PyUnicode_InternFromString("ema");
  PyObject* ema_weight = PyUnicode_InternFromString("ema_weight");
  PyObject* state_dtype = PyUnicode_InternFromString("state_dtype");
  PyObject* bfloat16_name = PyUnicode_InternFromString("bfloat16");
  PyObject* float16_name = PyUnicode_InternFromString("float16");
  PyObject* float32_name = PyUnicode_InternFromString("float32");
  PyObject* int8_name = PyUnicode_InternFromString("int8");

  static const Names& get() {
    static const Names& names = *new Names();
    return names;
  }
};

// The value of a key; nullptr where it is missing or None.
inline PyObject* lookup(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return value == Py_None ? nullptr : value;
}

// A group or a state as a dict to read: itself, unless it is another mapping, or reads its items in
// a way of its own. Throws TypeError for what is no mapping.
inline py::object plain_dict(py::handle mapping, const Stepped& optimizer) {
  if (PyDict_Check(mapping.ptr()) && Py_TYPE(mapping.ptr())->tp_as_mapping->mp_subscript ==
                                         PyDict_Type.tp_as_mapping->mp_subscript) {
    return py::reinterpret_borrow<py::object>(mapping);
  }
  return optimizer.as_dict(mapping);
}

// One parameter's state. Its entries are mostly asked for in the order in which they stand, so the
// next one is tried before the hash.
class Entries {
 public:
  explicit Entries(PyObject* dict) : dict_(dict) {}

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

 private:
  PyObject* dict_;
  Py_ssize_t position_ = 0;
};

// Whether a group's flag is there and true.
inline bool is_set(PyObject* group, PyObject* key) {
  PyObject* value = lookup(group, key);
  if (value == nullptr) return false;
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

inline double number(PyObject* object, const char* name) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    take_refusal();
    throw py::type_error(std::string(name) + ": expected a number or None, got " +
                         py::repr(object).cast<std::string>());
  }
  return value;
}

// What a group wants its states stored in; of anything but these names, whoever checks options
// makes one of them, or raises.
enum class StateDtype { own, float32, bfloat16, float16, int8, unknown };

inline StateDtype state_dtype(PyObject* group) {
  const Names& names = Names::get();
  PyObject* value = lookup(group, names.state_dtype);
  if (value == nullptr) return StateDtype::own;
  if (!PyUnicode_Check(value)) return StateDtype::unknown;
  const auto is = [value](PyObject* name) {
    return value == name || PyUnicode_Compare(value, name) == 0;
  };
  if (is(names.bfloat16_name)) return StateDtype::bfloat16;
  if (is(names.int8_name)) return StateDtype::int8;
  if (is(names.float32_name)) return StateDtype::float32;
  return is(names.float16_name) ? StateDtype::float16 : StateDtype::unknown;
}

// What a group asks for around the rule.
struct TailOptions {
  bool clips = false, error_if_nonfinite = false, averages = false, bias_correction = false;
  double max_grad_norm = 0, ema_decay = 0;

  static TailOptions of(PyObject* group) {
    const Names& names = Names::get();
    TailOptions tail;
    if (PyObject* norm = lookup(group, names.max_grad_norm)) {
      tail.clips = true;
      tail.max_grad_norm = number(norm, "max_grad_norm");
      tail.error_if_nonfinite = is_set(group, names.error_if_nonfinite);
    }
    if (PyObject* decay = lookup(group, names.ema_decay)) {
      tail.averages = true;
      tail.ema_decay = number(decay, "ema_decay");
      tail.bias_correction = is_set(group, names.ema_bias_correction);
    }
    return tail;
  }

  bool clips_alike(const TailOptions& other) const {
    return clips == other.clips && max_grad_norm == other.max_grad_norm &&
           error_if_nonfinite == other.error_if_nonfinite;
  }
};

}  // namespace fastopt
