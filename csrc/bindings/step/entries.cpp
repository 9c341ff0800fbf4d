#include "bindings/step/entries.h"

#include <algorithm>

namespace fastopt {

Kept::Kept(const AnyRule& rule) {
  for (int i = 0; i < rule.state_count(); ++i) {
    const std::string name = rule.state_name(i);
    states.push_back(PyUnicode_InternFromString(name.c_str()));
    scales.push_back(PyUnicode_InternFromString((name + "_scale").c_str()));
  }
  for (int k = 0; k < rule.kept_count(); ++k) {
    numbers.push_back(PyUnicode_InternFromString(rule.kept_name(k)));
  }
  if (const char* name = rule.product_name()) product = PyUnicode_InternFromString(name);
}

signed char& Kept::stored_in(const Plan& plan, bool worth, DType param, int state) {
  const std::size_t key =
      ((((static_cast<std::size_t>(plan.wanted) * 2 + plan.has_master) * 2 + worth) << max_states |
        plan.used) *
           dtype_count +
       static_cast<std::size_t>(param)) *
          max_states +
      static_cast<std::size_t>(state);
  if (key >= stored_in_.size()) stored_in_.resize(key + 1, unasked);
  return stored_in_[key];
}

PyObject* Entries::find_or_begin(PyObject* name) {
  PyObject* tensor = find(name);
  if (tensor == nullptr && !empty()) throw py::key_error(py::handle(name).cast<std::string>());
  return tensor != nullptr || memory_.dry() ? tensor : make(name);
}

// What is made while a graph captures the step would be made anew by every replay.
void Entries::check_no_capture(PyObject* name) const {
  if (!place_.captured) return;
  const bool is_number =
      name == kept_.step || name == kept_.product ||
      std::find(kept_.numbers.begin(), kept_.numbers.end(), name) != kept_.numbers.end();
  refuse_captured_entry(plan_, py::str(name), is_number);
}

PyObject* Entries::make(PyObject* name) {
  memory_.must_hold();
  check_no_capture(name);
  py::object tensor = memory_.optimizer().new_state(plan_.group, param_, name);
  if (!made_) made_ = py::dict();
  made_[py::handle(name)] = tensor;
  return tensor.ptr();  // kept alive by made_
}

PyObject* Entries::convert(PyObject* name) {
  memory_.must_hold();
  check_no_capture(name);
  const py::dict converted = memory_.optimizer().converted(plan_.group, param_, name);
  if (!made_) made_ = py::dict();
  if (PyDict_Update(made_.ptr(), converted.ptr()) != 0) throw py::error_already_set();
  return find_made(name);
}

// None stands for what is to go.
void Entries::drop(PyObject* name) {
  if (!made_) made_ = py::dict();
  made_[py::handle(name)] = py::none();
}

}  // namespace fastopt
