// Finds a parameter's gradient, and tells autograd of a write, where torch keeps both, without a
// call.
//
// Through Python, a gradient takes 50 ns and a note of a write 70. What is read here is looked up
// and confirmed as the layout of tensors is (bindings/tensor_layout.h); where anything is
// otherwise, torch is asked and told.
#pragma once

#include <Python.h>

#include <cstdint>

#include "bindings/tensor_layout.h"

namespace fastopt {

class AutogradLayout {
 public:
  using Impl = TensorLayout::Impl;

  explicit AutogradLayout(const TensorLayout& tensors);

  bool knows_grads() const { return knows_grads_; }
  bool knows_versions() const { return knows_versions_; }

  // nullptr for a tensor without gradient. False where torch is to be asked, which warns of those
  // that are no leaves. Needs known grads.
  bool find_grad(const Impl* tensor, const Impl** grad) const {
    *grad = nullptr;
    const auto* autograd = at<const Impl* const*>(tensor, autograd_at_);
    if (autograd == nullptr) return true;
    *grad = autograd[grad_at_];
    if (*grad != no_grad_) return true;
    *grad = nullptr;
    return autograd[grad_at_ + 1] == nullptr;
  }

  void prefetch(const Impl* tensor) const {
    const auto* autograd = at<const Impl* const*>(tensor, autograd_at_);
    if (autograd != nullptr) __builtin_prefetch(autograd + grad_at_);
  }

  // Python's object of a tensor, if it has one yet.
  PyObject* object_of(const Impl* tensor) const { return at<PyObject*>(tensor, object_at_); }

  // What counts a tensor's writes; nullptr for one that does not. Needs known versions.
  uint32_t* version_of(const Impl* tensor) const {
    auto* version = at<Version*>(tensor, version_at_);
    return version == nullptr ? nullptr : &version->number;
  }
  static void bump(uint32_t* version) { __atomic_fetch_add(version, 1, __ATOMIC_SEQ_CST); }

 private:
  // The beginning of c10::VariableVersion::VersionCounter.
  struct Version {
    void* vtable;
    uint64_t references;
    uint32_t number;
  };

  template <class Pointer>
  static Pointer at(const Impl* tensor, int word) {
    return reinterpret_cast<Pointer>(TensorLayout::words(tensor)[word]);
  }

  bool find_object(PyObject* torch, int end);
  bool find_grads(PyObject* torch, int end);
  bool find_versions(PyObject* torch, int end);

  bool knows_grads_ = false, knows_versions_ = false;
  // Words from the start of c10::TensorImpl, and of torch::autograd::AutogradMeta.
  int object_at_ = 0, autograd_at_ = 0, version_at_ = 0, grad_at_ = 0;
  const Impl* no_grad_ = nullptr;
};

}  // namespace fastopt
