// What the bindings read of a tensor: torch's through DLPack's C exchange API, others through the
// buffer protocol or __dlpack__.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/autograd_layout.h"
#include "bindings/storage_counts.h"
#include "bindings/tensor_layout.h"
#include "cpu/kernel.h"
#include "dlpack.h"

namespace fastopt {

// A tensor's memory. Its elements are the negatives of what lies there if it is lazily negated, as
// the imaginary part of a conjugate is.
struct View : DLTensor {
  bool negated = false;
};

// Reads plain torch tensors (exactly torch.Tensor or torch.nn.Parameter, no subclass): where torch
// keeps what it needs, if that is known, else through the exchange API. Made once; nothing of a
// tensor is kept between calls.
class TorchReader {
 public:
  static const TorchReader& get();

  // False, with no Python error set, if `object` is no plain torch tensor or has no dense memory
  // (sparse, freed). `view` borrows from `object`.
  bool read(PyObject* object, View* view) const {
    view->negated = false;
    return (uses_layout_ && is_plain(object) && layout_.read(object, view)) || ask(object, view);
  }

  // Reads it where torch keeps it, or not at all. Tells its storage.
  bool read_in_place(PyObject* object, View* view, TensorLayout::Storage** storage) const {
    view->negated = false;
    if (!uses_layout_ || !is_plain(object) || !layout_.read(object, view)) return false;
    *storage = TensorLayout::impl_of(object)->storage;
    return true;
  }
  bool reads_in_place(PyObject* object) const {
    View view;
    TensorLayout::Storage* storage = nullptr;
    return read(object, &view) && read_in_place(object, &view, &storage);
  }

  // Reads tensors where torch keeps them, or no longer. Tells whether it does so now.
  bool use_layout(bool wanted) const { return uses_layout_ = wanted && layout_.known(); }
  bool finds_grads() const { return uses_layout_ && autograd_.knows_grads(); }
  bool counts_writes() const { return uses_layout_ && autograd_.knows_versions(); }
  bool counts_references() const { return uses_layout_ && storages_.known(); }
  const StorageCounts& storages() const { return storages_; }

  // torch's current stream on a CUDA device.
  void* stream(int device) const;

  // Whether a plain parameter has a gradient, and reads it, where torch keeps it, once it
  // finds_grads(). They are false where grad() is to be asked.
  bool find_grad(PyObject* parameter, bool* has_grad) const {
    const TensorLayout::Impl* grad = nullptr;
    const bool found = find(parameter, &grad);
    *has_grad = grad != nullptr;
    return found;
  }
  bool read_grad(PyObject* parameter, View* view, TensorLayout::Storage** storage) const {
    view->negated = false;
    const TensorLayout::Impl* grad = nullptr;
    if (!find(parameter, &grad) || grad == nullptr) return false;
    PyObject* const object = autograd_.object_of(grad);
    if ((object != nullptr && !is_plain(object)) || !layout_.read(grad, view)) return false;
    *storage = grad->storage;
    return true;
  }

  // For a look ahead (bindings/step/ahead.h): where torch keeps a tensor, if it is a plain one.
  const TensorLayout::Impl* impl_in_place(PyObject* object) const {
    return uses_layout_ && is_plain(object) ? TensorLayout::impl_of(object) : nullptr;
  }
  const TensorLayout::Impl* grad_in_place(const TensorLayout::Impl* parameter) const {
    const TensorLayout::Impl* grad = nullptr;
    if (autograd_.knows_grads()) autograd_.find_grad(parameter, &grad);
    return grad;
  }
  void prefetch(const TensorLayout::Impl* impl) const { layout_.prefetch(impl); }
  static void prefetch(const TensorLayout::Storage* storage) {
    __builtin_prefetch(&storage->data);
    __builtin_prefetch(&storage->device_index);
  }
  void prefetch_autograd(const TensorLayout::Impl* impl) const {
    if (autograd_.knows_grads()) autograd_.prefetch(impl);
  }

  // Where autograd counts the writes to a tensor, for AutogradLayout::bump; nullptr if only torch
  // knows.
  uint32_t* version_of(PyObject* tensor) const {
    return counts_writes() && is_plain(tensor) ? autograd_.version_of(TensorLayout::impl_of(tensor))
                                               : nullptr;
  }

  // parameter.grad, without looking the attribute up where the type is known.
  pybind11::object grad(PyObject* parameter) const;

  bool is_plain(PyObject* object) const {
    return Py_TYPE(object) == tensor_type_ || Py_TYPE(object) == parameter_type_;
  }

 private:
  TorchReader();
  bool find(PyObject* parameter, const TensorLayout::Impl** grad) const {
    return is_plain(parameter) && autograd_.find_grad(TensorLayout::impl_of(parameter), grad);
  }
  bool ask(PyObject* object, View* view) const;
  bool is_strided(PyObject* object) const;

  PyTypeObject *tensor_type_, *parameter_type_;
  const DLPackExchangeAPI *tensor_api_, *parameter_api_;
  PyObject* strided_;         // torch.strided
  PyGetSetDef* grad_getter_;  // torch.Tensor.grad
  // torch's refusal of a sparse tensor costs a millisecond (it collects a stack trace), so after
  // the first one the layout is asked for beforehand, at 40 ns a tensor.
  mutable bool wary_ = false;
  mutable TensorLayout layout_;
  mutable int chances_ = 8;  // to learn from CUDA tensors, of which some are not plain
  AutogradLayout autograd_;
  StorageCounts storages_;
  mutable bool uses_layout_;
};

inline int64_t element_count(const DLTensor& view) {
  int64_t count = 1;
  for (int d = 0; d < view.ndim; ++d) count *= view.shape[d];
  return count;
}

inline bool same_shape(const DLTensor& a, const DLTensor& b) {
  if (a.ndim != b.ndim) return false;
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != b.shape[d]) return false;
  }
  return true;
}

// Strides equal wherever a dimension has more than one element.
inline bool same_layout(const DLTensor& a, const DLTensor& b) {
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

bool is_contiguous(const DLTensor& view);

// Every element has its own place and no gap lies between them, in whatever order of dimensions.
bool is_dense(const DLTensor& view);

inline bool on_cpu(const DLTensor& view) { return view.device.device_type == kDLCPU; }

// -1 if the kernels do not know the type.
inline int dtype_of(const DLTensor& view) {
  const int code = view.dtype.code, bits = view.dtype.bits;
  if (view.dtype.lanes != 1) return -1;
  if (code == kDLBfloat) return bits == 16 ? static_cast<int>(DType::bfloat16) : -1;
  if (code != kDLFloat) return -1;
  if (bits == 32) return static_cast<int>(DType::float32);
  if (bits == 64) return static_cast<int>(DType::float64);
  return bits == 16 ? static_cast<int>(DType::float16) : -1;
}
std::string dtype_name(const DLTensor& view);
std::string device_name(const DLTensor& view);
std::string shape_text(const DLTensor& view);

inline void* data_of(const DLTensor& view) {
  return static_cast<char*>(view.data) + view.byte_offset;
}

// Of an element, which may be less than a byte: then 1.
inline int64_t element_bytes(const DLTensor& view) {
  return std::max<int64_t>(1, view.dtype.bits * view.dtype.lanes / 8);
}

// Whether the elements start on multiples of their size.
inline bool is_aligned(const DLTensor& view) {
  const auto address = reinterpret_cast<uintptr_t>(data_of(view));
  const auto bytes = static_cast<uintptr_t>(element_bytes(view));
  const bool is_power = (bytes & (bytes - 1)) == 0;  // which needs no division
  return is_power ? (address & (bytes - 1)) == 0 : address % bytes == 0;
}

// Any array, held for the length of a call.
class Array {
 public:
  // Throws pybind11::type_error or value_error if `object` offers no way to its memory. `name` is
  // the argument's.
  Array(pybind11::handle object, const std::string& name);
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  const View& view() const { return view_; }
  bool read_only() const { return read_only_; }
  bool is_torch() const { return is_torch_; }
  std::string dtype() const;  // for people

  // Throws if Python code that ran since has freed the memory of a torch tensor, moved or resized
  // it; what other kinds of arrays export is held.
  void check_unmoved() const;

  // Keeps a torch tensor's memory although another thread may give it other data.
  void hold_storage();

 private:
  void release_buffer();
  bool read_buffer(pybind11::handle object);
  bool read_bfloat16(pybind11::handle object);
  bool read_dlpack(pybind11::handle object, const std::string& name);

  View view_{};
  bool read_only_ = false, is_torch_ = false;
  bool has_buffer_ = false;
  Py_buffer buffer_{};
  std::vector<int64_t> extents_;  // shape, then strides, of a buffer or a tensor
  pybind11::object owner_;        // the object itself, or its DLPack capsule
  pybind11::object storage_;
  std::string name_;
};

}  // namespace fastopt
