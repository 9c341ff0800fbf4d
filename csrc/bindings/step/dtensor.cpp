#include "bindings/step/dtensor.h"

namespace py = pybind11;

namespace fastopt {
namespace {

PyTypeObject* dtensor_type() {
  static PyTypeObject* type = nullptr;
  if (type == nullptr) {
    PyObject* module =
        PyDict_GetItemString(PyImport_GetModuleDict(), "torch.distributed.tensor");  // borrowed
    if (module == nullptr || !py::hasattr(module, "DTensor")) return nullptr;
    type = reinterpret_cast<PyTypeObject*>(
        py::object(py::handle(module).attr("DTensor")).release().ptr());
  }
  return type;
}

py::object attribute(py::handle object, PyObject* name) {
  PyObject* value = PyObject_GetAttr(object.ptr(), name);
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

// The attributes of DTensor and of its spec, made once.
struct Names {
  PyObject* local_tensor = PyUnicode_InternFromString("_local_tensor");
  PyObject* spec = PyUnicode_InternFromString("_spec");
  PyObject* mesh = PyUnicode_InternFromString("mesh");
  PyObject* placements = PyUnicode_InternFromString("placements");
  PyObject* shape = PyUnicode_InternFromString("shape");
  // Of several mesh dimensions that cut one tensor dimension, which cuts first.
  PyObject* shard_order = PyUnicode_InternFromString("shard_order");

  static const Names& get() {
    static const Names& names = *new Names();
    return names;
  }
};

// Identical objects are equal without a call into Python.
bool same(const py::object& a, const py::object& b) {
  const int equal = PyObject_RichCompareBool(a.ptr(), b.ptr(), Py_EQ);
  if (equal < 0) throw py::error_already_set();
  return equal != 0;
}

}  // namespace

bool is_dtensor(PyObject* object) {
  PyTypeObject* type = dtensor_type();
  return type != nullptr && Py_TYPE(object) == type;
}

py::object local_part(PyObject* dtensor) { return attribute(dtensor, Names::get().local_tensor); }

py::object distribution(PyObject* dtensor) { return attribute(dtensor, Names::get().spec); }

bool same_distribution(const py::object& a, const py::object& b) {
  if (a.is(b)) return true;
  const Names& names = Names::get();
  for (PyObject* name : {names.mesh, names.placements, names.shape}) {
    if (!same(attribute(a, name), attribute(b, name))) return false;
  }
  const auto order = [&](py::handle it) { return py::getattr(it, names.shard_order, py::none()); };
  return same(order(a), order(b));  // older torch lacks it
}

std::string distribution_text(const py::object& distribution) {
  const auto value_of = [&](PyObject* name) {
    return py::str(attribute(distribution, name)).cast<std::string>();
  };
  const Names& names = Names::get();
  return value_of(names.shape) + ", placements " + value_of(names.placements) + ", " +
         value_of(names.mesh);
}

int Layouts::index_of(const py::object& distribution) {
  const Names& names = Names::get();
  py::object mesh = attribute(distribution, names.mesh);
  py::object placements = attribute(distribution, names.placements);
  for (int i = 0; i < size(); ++i) {
    if (same(layouts_[i].mesh, mesh) && same(layouts_[i].placements, placements)) return i;
  }
  bool partial = false;
  for (py::handle placement : placements) {
    partial |= placement.attr("is_partial")().cast<bool>();
  }
  layouts_.push_back({std::move(mesh), std::move(placements), partial});
  return size() - 1;
}

}  // namespace fastopt
