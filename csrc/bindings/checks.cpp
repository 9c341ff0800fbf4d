#include "bindings/checks.h"

#include "bindings/cuda.h"

namespace py = pybind11;

namespace fastopt {

void take_refusal() {
  const bool refuses =
      PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
      PyErr_ExceptionMatches(PyExc_OverflowError) ||
      (PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_RecursionError));
  if (!refuses) throw py::error_already_set();
  PyErr_Clear();
}

std::string text(py::handle object) { return py::repr(object).cast<std::string>(); }

double number(py::handle object, const char* name, const char* accepted,
              const char* accepted_if_too_large) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError);
    take_refusal();
    if (too_large && accepted_if_too_large != nullptr) accepted = accepted_if_too_large;
    const std::string message =
        std::string(name) + ": expected " + accepted + ", got " + text(object);
    if (too_large) throw py::value_error(message);
    throw py::type_error(message);
  }
  return value;
}

int device_with_kernels(const Array& array, const std::string& name) {
  CudaLibrary& cuda = CudaLibrary::get();
  const int device = cuda.device_of(array.view());
  if (device == no_device) {
    const bool is_cuda = array.view().device.device_type == kDLCUDA;
    throw py::value_error(name + ": expected memory of the CPU, got memory of " +
                          device_name(array.view()) + (is_cuda ? " (" + cuda.trouble() + ")" : ""));
  }
  if (!on_cpu(array.view()) && !array.is_torch()) {  // another library's stream may not be done
    throw py::value_error(name + ": expected a torch tensor or memory of the CPU, got memory of " +
                          device_name(array.view()) + " that is not torch's");
  }
  return device;
}

void check_same_device(const Array& array, const std::string& name, const Array& other,
                       const std::string& other_name) {
  if (device_with_kernels(array, name) == CudaLibrary::get().device_of(other.view())) return;
  throw py::value_error(name + ": expected memory of " + device_name(other.view()) + " like " +
                        other_name + ", got memory of " + device_name(array.view()));
}

void check_dtype(const Array& array, const std::string& name) {
  if (dtype_of(array.view()) < 0) {
    throw py::type_error(name + ": expected float32, float64, bfloat16 or float16, got " +
                         array.dtype());
  }
}

void check_layout(const Array& array, const std::string& name, bool written) {
  if (!is_contiguous(array.view())) {
    throw py::value_error(name +
                          ": expected a C-contiguous array, got strides that leave gaps or " +
                          "another order; pass a contiguous copy");
  }
  if (!is_aligned(array.view())) {
    throw py::value_error(name + ": expected memory aligned to " +
                          std::to_string(element_bytes(array.view())) +
                          " bytes, got an address between elements; pass a copy");
  }
  if (written && array.read_only()) {
    throw py::value_error(name + ": expected writable memory, got a read-only array");
  }
}

}  // namespace fastopt
