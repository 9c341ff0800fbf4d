#include "bindings/watchers.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace fastopt {
namespace {

PyObject* kept(const py::object& object) { return py::object(object).release().ptr(); }

py::object call(PyObject* function, PyObject* argument = nullptr) {
  PyObject* result =
      argument == nullptr ? PyObject_CallNoArgs(function) : PyObject_CallOneArg(function, argument);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

bool is_true(const py::object& object) { return PyObject_IsTrue(object.ptr()) == 1; }

}  // namespace

Watchers torch_watchers() {
  static const py::module_& torch = *new py::module_(py::module_::import("torch._C"));
  static PyObject* const modes = kept(torch.attr("_len_torch_dispatch_stack"));
  static PyObject* const is_tracing = kept(torch.attr("_is_tracing"));
  static PyObject* const function_modes = kept(torch.attr("_len_torch_function_stack"));
  static PyObject* const is_included = kept(torch.attr("_dispatch_tls_is_dispatch_key_included"));
  static PyObject* const early = kept(torch.attr("DispatchKey").attr("PreDispatch"));
  const bool has_functions = is_true(call(function_modes));
  if (is_true(call(modes)) || is_true(call(is_tracing))) return {true, has_functions};
  // make_fx's modes from before autograd are not on that stack. It has one for functions, too, and
  // to ask for that one first is cheaper.
  return {has_functions && is_true(call(is_included, early)), has_functions};
}

}  // namespace fastopt
