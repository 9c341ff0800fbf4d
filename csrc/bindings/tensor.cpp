#include "bindings/tensor.h"

#include <algorithm>
#include <vector>

namespace py = pybind11;

namespace fastopt {

namespace {

// A tensor whose storage was freed reads as its offset from a null pointer, so low addresses are
// looked at more closely. Of some (functionalized, or zeros without memory) torch tells no address.
bool has_memory(PyObject* object, const DLTensor& view) {
  constexpr uint64_t low = uint64_t{1} << 40;
  const bool is_ours = view.device.device_type == kDLCPU || view.device.device_type == kDLCUDA;
  if (!is_ours || reinterpret_cast<uint64_t>(view.data) >= low) return true;
  try {
    return py::handle(object).attr("untyped_storage")().attr("data_ptr")().cast<uint64_t>() != 0;
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_RuntimeError)) return false;
    throw;
  }
}

const DLPackExchangeAPI* exchange_api(py::handle type) {
  py::object capsule = type.attr("__dlpack_c_exchange_api__");
  void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (api == nullptr) throw py::error_already_set();
  return static_cast<const DLPackExchangeAPI*>(api);
}

bool ask_exchange(PyObject* tensor, DLTensor* view) {
  const auto* api = exchange_api(py::type::of(py::handle(tensor)));
  return api->dltensor_from_py_object_no_sync(tensor, view) == 0;
}

}  // namespace

TorchReader::TorchReader()
    : layout_(ask_exchange), autograd_(layout_), storages_(layout_), uses_layout_(layout_.known()) {
  py::module_ torch = py::module_::import("torch");
  strided_ = py::object(torch.attr("strided")).release().ptr();
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  py::object grad = tensor.attr("grad");  // a descriptor
  if (Py_TYPE(grad.ptr()) != &PyGetSetDescr_Type)
    throw py::type_error("torch.Tensor.grad has changed");
  grad_getter_ = reinterpret_cast<PyGetSetDescrObject*>(grad.release().ptr())->d_getset;
  tensor_api_ = exchange_api(tensor);
  parameter_api_ = exchange_api(parameter);
  tensor_type_ = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  parameter_type_ = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
}

const TorchReader& TorchReader::get() {
  static const TorchReader& reader = *new TorchReader();
  return reader;
}

bool TorchReader::ask(PyObject* object, View* view) const {
  const DLPackExchangeAPI* api = Py_TYPE(object) == tensor_type_      ? tensor_api_
                                 : Py_TYPE(object) == parameter_type_ ? parameter_api_
                                                                      : nullptr;
  if (api == nullptr || (wary_ && !is_strided(object))) return false;
  if (api->dltensor_from_py_object_no_sync(object, view) != 0) {
    PyErr_Clear();
    wary_ = true;
    return false;
  }
  view->negated = py::handle(object).attr("is_neg")().cast<bool>();
  if (element_count(*view) == 0) return true;
  if (!has_memory(object, *view)) return false;
  if (view->device.device_type == kDLCUDA && chances_ > 0) {
    chances_ = layout_.learn(object, ask_exchange) ? 0 : chances_ - 1;
  }
  return true;
}

void* TorchReader::stream(int device) const {
  void* stream = nullptr;
  if (tensor_api_->current_work_stream(kDLCUDA, device, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

py::object TorchReader::grad(PyObject* parameter) const {
  PyObject* grad = is_plain(parameter) ? grad_getter_->get(parameter, grad_getter_->closure)
                                       : PyObject_GetAttrString(parameter, "grad");
  if (grad == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(grad);
}

bool TorchReader::is_strided(PyObject* object) const {
  return py::handle(object).attr("layout").ptr() == strided_;
}

bool is_contiguous(const DLTensor& view) {
  // Without elements, strides mean nothing; NumPy sets them to 0.
  if (view.strides == nullptr || element_count(view) == 0) return true;
  int64_t expected = 1;
  for (int d = view.ndim - 1; d >= 0; --d) {
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

std::string dtype_name(const DLTensor& view) {
  const int bits = view.dtype.bits;
  const int lanes = view.dtype.lanes;
  const std::string size = std::to_string(bits) + (lanes == 1 ? "" : "x" + std::to_string(lanes));
  switch (view.dtype.code) {
    case kDLFloat:
      return "float" + size;
    case kDLBfloat:
      return "bfloat" + size;
    case kDLInt:
      return "int" + size;
    case kDLUInt:
      return "uint" + size;
    case kDLBool:
      return "bool";
    case kDLComplex:
      return "complex" + size;
    default:
      return "an unknown type of " + size + " bits";
  }
}

std::string device_name(const DLTensor& view) {
  switch (view.device.device_type) {
    case kDLCPU:
      return "the CPU";
    case kDLCUDA:
      return "CUDA device " + std::to_string(view.device.device_id);
    case kDLROCM:
      return "a ROCm device";
    case kDLMetal:
      return "a Metal device";
    default:
      return "DLPack device type " + std::to_string(static_cast<int>(view.device.device_type));
  }
}

std::string shape_text(const DLTensor& view) {
  std::string text = "(";
  for (int d = 0; d < view.ndim; ++d) text += (d ? ", " : "") + std::to_string(view.shape[d]);
  return text + (view.ndim == 1 ? ",)" : ")");
}

namespace {

std::string type_name(py::handle object) {
  return py::str(py::type::of(object).attr("__name__")).cast<std::string>();
}

// A torch tensor without memory that a kernel could use: sparse, quantised, freed, on "meta".
[[noreturn]] void refuse_torch(py::handle tensor, const std::string& name) {
  const auto value_of = [&](const char* attribute) {
    return py::str(tensor.attr(attribute)).cast<std::string>();
  };
  const std::string device = value_of("device");
  const std::string message =
      name + ": expected a dense torch tensor with memory on the CPU, got one of " +
      value_of("layout") + ", " + value_of("dtype") + " on device " + device;
  if (device != "cpu") throw py::value_error(message);
  throw py::type_error(message);
}

// Clears the Python error that is set, unless it is an interrupt.
void forget_exception() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
  PyErr_Clear();
}

}  // namespace

Array::Array(py::handle object, const std::string& name)
    : owner_(py::reinterpret_borrow<py::object>(object)), name_(name) {
  const TorchReader& torch = TorchReader::get();
  is_torch_ = torch.read(object.ptr(), &view_);
  if (is_torch_) {  // whose own extents change with it
    extents_.assign(view_.shape, view_.shape + view_.ndim);
    extents_.insert(extents_.end(), view_.strides, view_.strides + view_.ndim);
    view_.shape = extents_.data();
    view_.strides = extents_.data() + view_.ndim;
  } else {
    if (torch.is_plain(object.ptr())) refuse_torch(object, name);
    if (!read_buffer(object) && !read_bfloat16(object) && !read_dlpack(object, name)) {
      throw py::type_error(name + ": expected a NumPy array, a dense torch tensor, or an object " +
                           "with DLPack or the buffer protocol, got " + type_name(object));
    }
  }
  if (view_.data == nullptr && element_count(view_) != 0) {  // a torch subclass that wraps others
    throw py::type_error(name + ": expected an array with memory of its own, got " +
                         type_name(object) + ", which has none");
  }
}

Array::~Array() { release_buffer(); }

void Array::release_buffer() {
  if (has_buffer_) PyBuffer_Release(&buffer_);
  has_buffer_ = read_only_ = false;
}

void Array::check_unmoved() const {
  View now;
  if (!is_torch_ || (TorchReader::get().read(owner_.ptr(), &now) && same_shape(now, view_) &&
                     data_of(now) == data_of(view_))) {
    return;
  }
  throw py::value_error(name_ +
                        ": expected memory that stays while other arguments are read, got a " +
                        "tensor that one of them has freed, moved or resized");
}

void Array::hold_storage() {
  if (is_torch_) storage_ = owner_.attr("untyped_storage")();
}

std::string Array::dtype() const {
  if (has_buffer_ && view_.dtype.code == kDLOpaqueHandle && buffer_.format != nullptr) {
    return "buffer format '" + std::string(buffer_.format) + "'";
  }
  return dtype_name(view_);
}

namespace {

// The DLPack type of a buffer's format, for native-order scalars; opaque for anything else.
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

bool Array::read_buffer(py::handle object) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    forget_exception();
    return false;
  }
  has_buffer_ = true;
  read_only_ = buffer_.readonly != 0;
  extents_.assign(buffer_.shape, buffer_.shape + buffer_.ndim);
  const bool has_strides = buffer_.strides != nullptr;  // ctypes leaves them out
  for (int d = 0; has_strides && d < buffer_.ndim; ++d) {
    // Not whole elements (one field of a record): 0 then stands for "not contiguous".
    const Py_ssize_t stride = buffer_.strides[d], size = buffer_.itemsize;
    extents_.push_back(size > 0 && stride % size == 0 ? stride / size : 0);
  }
  view_.data = buffer_.buf;
  view_.device = {kDLCPU, 0};
  view_.ndim = buffer_.ndim;
  view_.dtype = buffer_dtype(buffer_.format, buffer_.itemsize);
  view_.shape = extents_.data();
  view_.strides = has_strides ? extents_.data() + buffer_.ndim : nullptr;
  return true;
}

// NumPy has no bfloat16 of its own; the array type that ml_dtypes adds has no buffer and no DLPack.
bool Array::read_bfloat16(py::handle object) {
  PyObject* dtype = PyObject_GetAttrString(object.ptr(), "dtype");
  if (dtype == nullptr) {
    forget_exception();
    return false;
  }
  const py::object type = py::reinterpret_steal<py::object>(dtype);
  if (!py::isinstance<py::str>(py::getattr(type, "name", py::none())) ||
      py::str(type.attr("name")).cast<std::string>() != "bfloat16" ||
      !py::hasattr(object, "view") || !read_buffer(object.attr("view")("uint16"))) {
    return false;
  }
  // What calls itself bfloat16 need not have items of its size.
  if (view_.dtype.code != kDLUInt || view_.dtype.bits != 16) {
    release_buffer();
    return false;
  }
  view_.dtype = {kDLBfloat, 16, 1};
  return true;
}

namespace {

// What object.__dlpack__ returns. A refusal (BufferError, mostly) becomes a TypeError with a name.
py::object dlpack_capsule(py::handle object, const std::string& name) {
  try {
    try {
      return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      return object.attr("__dlpack__")();  // from before max_version
    }
  } catch (py::error_already_set& error) {
    const bool refusal = error.matches(PyExc_BufferError) || error.matches(PyExc_RuntimeError) ||
                         error.matches(PyExc_TypeError) || error.matches(PyExc_ValueError);
    if (!refusal) throw;
    const std::string reason = py::str(error.value()).cast<std::string>();
    const std::string message = name + ": expected an array that DLPack can export, got " +
                                type_name(object) + " (" + reason + ")";
    py::raise_from(error, PyExc_TypeError, message.c_str());
    throw py::error_already_set();
  }
}

// The struct in a capsule of this name, or nullptr.
template <class Managed>
const Managed* unpack(const py::object& capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule.ptr(), name)) return nullptr;
  return static_cast<const Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
}

}  // namespace

bool Array::read_dlpack(py::handle object, const std::string& name) {
  if (!py::hasattr(object, "__dlpack__")) return false;
  py::object capsule = dlpack_capsule(object, name);
  if (const auto* versioned = unpack<DLManagedTensorVersioned>(capsule, "dltensor_versioned")) {
    if (versioned->version.major != DLPACK_MAJOR_VERSION) {
      throw py::type_error(name + ": expected DLPack version 1, got version " +
                           std::to_string(versioned->version.major));
    }
    static_cast<DLTensor&>(view_) = versioned->dl_tensor;
    read_only_ = (versioned->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  } else if (const auto* plain = unpack<DLManagedTensor>(capsule, "dltensor")) {
    static_cast<DLTensor&>(view_) = plain->dl_tensor;
  } else {
    throw py::type_error(name + ": expected __dlpack__ to return a DLPack capsule, got " +
                         type_name(capsule));
  }
  owner_ = capsule;  // not consumed: its destructor gives the memory back
  return true;
}

}  // namespace fastopt
