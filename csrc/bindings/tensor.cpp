#include "bindings/tensor.h"

#include <algorithm>
#include <vector>

namespace py = pybind11;

namespace fastopt {

namespace {

const DLPackExchangeAPI* exchange_api(py::handle type) {
  py::object capsule = type.attr("__dlpack_c_exchange_api__");
  void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (api == nullptr) throw py::error_already_set();
  return static_cast<const DLPackExchangeAPI*>(api);
}

}  // namespace

TorchReader::TorchReader() {
  py::module_ torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  tensor_api_ = exchange_api(tensor);
  parameter_api_ = exchange_api(parameter);
  tensor_type_ = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  parameter_type_ = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
}

const TorchReader& TorchReader::get() {
  static const TorchReader& reader = *new TorchReader();
  return reader;
}

bool TorchReader::read(PyObject* object, DLTensor* view) const {
  const DLPackExchangeAPI* api = Py_TYPE(object) == tensor_type_      ? tensor_api_
                                 : Py_TYPE(object) == parameter_type_ ? parameter_api_
                                                                      : nullptr;
  if (api == nullptr) return false;
  if (api->dltensor_from_py_object_no_sync(object, view) != 0) {
    PyErr_Clear();
    return false;
  }
  // A tensor whose storage was freed reads as a null pointer.
  return view->data != nullptr || element_count(*view) == 0;
}

int64_t element_count(const DLTensor& view) {
  int64_t count = 1;
  for (int d = 0; d < view.ndim; ++d) count *= view.shape[d];
  return count;
}

bool same_shape(const DLTensor& a, const DLTensor& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

bool same_strides(const DLTensor& a, const DLTensor& b) {
  return std::equal(a.strides, a.strides + a.ndim, b.strides);
}

bool same_layout(const DLTensor& a, const DLTensor& b) {
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

bool is_contiguous(const DLTensor& view) {
  if (view.strides == nullptr) return true;
  int64_t expected = 1;
  for (int d = view.ndim - 1; d >= 0; --d) {
    if (view.shape[d] == 0) return true;
    if (view.shape[d] != 1 && view.strides[d] != expected) return false;
    expected *= view.shape[d];
  }
  return true;
}

bool is_dense(const DLTensor& view) {
  if (is_contiguous(view)) return true;
  std::vector<int> order;
  for (int d = 0; d < view.ndim; ++d) {
    if (view.shape[d] != 1) order.push_back(d);
  }
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return view.strides[a] < view.strides[b]; });
  int64_t expected = 1;
  for (int d : order) {
    if (view.strides[d] != expected) return false;
    expected *= view.shape[d];
  }
  return true;
}

int dtype_of(const DLTensor& view) {
  if (view.dtype.code != kDLFloat || view.dtype.lanes != 1) return -1;
  if (view.dtype.bits == 32) return static_cast<int>(DType::float32);
  if (view.dtype.bits == 64) return static_cast<int>(DType::float64);
  return -1;
}

std::string dtype_name(const DLTensor& view) {
  const int bits = view.dtype.bits;
  switch (view.dtype.code) {
    case kDLFloat:
      return "float" + std::to_string(bits);
    case kDLBfloat:
      return "bfloat" + std::to_string(bits);
    case kDLInt:
      return "int" + std::to_string(bits);
    case kDLUInt:
      return "uint" + std::to_string(bits);
    case kDLBool:
      return "bool";
    case kDLComplex:
      return "complex" + std::to_string(bits);
    default:
      return "an unknown type of " + std::to_string(bits) + " bits";
  }
}

std::string shape_text(const DLTensor& view) {
  std::string text = "(";
  for (int d = 0; d < view.ndim; ++d) text += (d ? ", " : "") + std::to_string(view.shape[d]);
  return text + (view.ndim == 1 ? ",)" : ")");
}

Array::Array(py::handle object, const std::string& name)
    : owner_(py::reinterpret_borrow<py::object>(object)) {
  if (TorchReader::get().read(object.ptr(), &view_)) return;
  if (!TorchReader::get().is_plain(object.ptr())) {
    if (read_buffer(object, name) || read_dlpack(object)) return;
  }
  throw py::type_error(
      name + ": expected a NumPy array, a dense torch tensor, or an object with DLPack or " +
      "the buffer protocol, got " + std::string(py::str(py::type::of(object).attr("__name__"))));
}

Array::~Array() {
  if (has_buffer_) PyBuffer_Release(&buffer_);
}

namespace {

// The DLPack type of a buffer's format, for native-order scalars; bits = 0 for anything else.
DLDataType buffer_dtype(const char* format, Py_ssize_t itemsize) {
  DLDataType type{kDLOpaqueHandle, 0, 1};
  if (format == nullptr) return type;
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  const std::string code = format;
  type.bits = static_cast<uint8_t>(itemsize * 8);
  if (code == "f" || code == "d" || code == "e" || code == "g") {
    type.code = kDLFloat;
  } else if (code == "Zf" || code == "Zd") {
    type.code = kDLComplex;
  } else if (code == "?") {
    type.code = kDLBool;
  } else if (code.size() == 1 && code.find_first_of("bhilqn") == 0) {
    type.code = kDLInt;
  } else if (code.size() == 1 && code.find_first_of("BHILQN") == 0) {
    type.code = kDLUInt;
  }
  return type;
}

}  // namespace

bool Array::read_buffer(py::handle object, const std::string& name) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    return false;
  }
  has_buffer_ = true;
  read_only_ = buffer_.readonly != 0;
  extents_.assign(buffer_.shape, buffer_.shape + buffer_.ndim);
  for (int d = 0; d < buffer_.ndim; ++d) {
    if (buffer_.shape[d] > 1 && buffer_.strides[d] % buffer_.itemsize != 0) {
      throw py::value_error(name + ": the strides are not whole elements");
    }
    extents_.push_back(buffer_.strides[d] / buffer_.itemsize);
  }
  view_.data = buffer_.buf;
  view_.device = {kDLCPU, 0};
  view_.ndim = buffer_.ndim;
  view_.dtype = buffer_dtype(buffer_.format, buffer_.itemsize);
  view_.shape = extents_.data();
  view_.strides = extents_.data() + buffer_.ndim;
  return true;
}

bool Array::read_dlpack(py::handle object) {
  if (!py::hasattr(object, "__dlpack__")) return false;
  py::object capsule;
  try {
    capsule = object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = object.attr("__dlpack__")();  // from before max_version
  }
  if (void* versioned = PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned")) {
    const auto* managed = static_cast<const DLManagedTensorVersioned*>(versioned);
    view_ = managed->dl_tensor;
    read_only_ = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  } else {
    PyErr_Clear();
    void* plain = PyCapsule_GetPointer(capsule.ptr(), "dltensor");
    if (plain == nullptr) throw py::error_already_set();
    view_ = static_cast<const DLManagedTensor*>(plain)->dl_tensor;
  }
  owner_ = capsule;  // not consumed: its destructor gives the memory back
  return true;
}

}  // namespace fastopt
