// Reads a tensor's address, shape, strides and dtype where torch keeps them, without a call.
//
// DLPack's C exchange API tells the same at 40 to 70 ns a tensor, most of it spent on taking the
// GIL and a reference; a step over 200 small tensors asks 1000 times. But the layout of torch's
// objects is no interface. So it is looked up in tensors made for it when fastopt is first used,
// and then compared with the exchange API on others; if anything differs, it stays unused. And it
// speaks of plain tensors only: those of the ordinary allocators, of up to five dimensions, whose
// dispatch keys are those of torch.zeros(1) on the CPU or, once one has been met, on a CUDA device.
// For all others `read` says false, and the exchange API is asked.
#pragma once

#include <Python.h>

#include <cstdint>
#include <initializer_list>

#include "cpu/kernel.h"
#include "dlpack.h"

namespace fastopt {

class TensorLayout {
 public:
  // Looks the layout up. `ask` is the exchange API's read for objects of type torch.Tensor.
  using Ask = bool (*)(PyObject* object, DLTensor* view);
  explicit TensorLayout(Ask ask);

  bool known() const { return known_; }

  // Learns the dispatch keys of plain tensors on CUDA devices from one that the exchange API has
  // read, and confirms that it reads alike; false, and tensors there stay unread, if it does not.
  bool learn(PyObject* tensor, Ask ask);

  // The beginnings of c10::StorageImpl and c10::TensorImpl as of torch 2.10 to 2.13.
  struct Storage {
    void* vtable;
    uint64_t references;
    char* data;
    void* deleter;
    void* context;
    int8_t device_type, device_index;
  };
  struct Impl {
    void* vtable;
    uint64_t references;
    Storage* storage;
  };
  static const Impl* impl_of(PyObject* tensor) {
    return reinterpret_cast<const Object*>(tensor)->impl;
  }
  static const uint64_t* words(const Impl* impl) { return reinterpret_cast<const uint64_t*>(impl); }
  int extent_at() const { return extent_at_; }  // words from the start of one

  // Gives a tensor another storage, without a word to either.
  static void put_storage(PyObject* tensor, Storage* storage) {
    const_cast<Impl*>(impl_of(tensor))->storage = storage;
  }

  // Needs a known layout, and a `tensor` of exactly torch.Tensor's or torch.nn.Parameter's type.
  // `view` borrows from it.
  bool read(PyObject* tensor, DLTensor* view) const { return read(impl_of(tensor), view); }

  bool read(const Impl* impl, DLTensor* view) const {
    if (impl == nullptr || impl->storage == nullptr) return false;
    const Storage& storage = *impl->storage;
    const Extent& extent = *reinterpret_cast<const Extent*>(words(impl) + extent_at_);
    const bool on_cpu = extent.keys == cpu_keys_;
    if ((!on_cpu && extent.keys != cuda_keys_) || extent.dimensions > Extent::inlined) return false;
    int dtype = 0;
    while (extent.dtype != dtypes_[dtype]) {
      if (++dtype == dtype_count) return false;
    }
    // Memory of another allocator may be shared and copied when written to, or not be there.
    if (storage.data == nullptr || storage.context != storage.data) return false;
    const int64_t bytes = dtype_bytes[dtype];
    const bool is_bfloat = static_cast<DType>(dtype) == DType::bfloat16;
    view->data = storage.data + extent.offset * bytes;
    view->device = {kDLCPU, 0};
    if (!on_cpu) view->device = {kDLCUDA, storage.device_index};
    view->ndim = static_cast<int>(extent.dimensions);
    view->dtype = {static_cast<uint8_t>(is_bfloat ? kDLBfloat : kDLFloat),
                   static_cast<uint8_t>(bytes * 8), 1};
    view->shape = const_cast<int64_t*>(extent.shape);
    view->strides = const_cast<int64_t*>(extent.strides);
    view->byte_offset = 0;
    return true;
  }

  // All of it that is read.
  void prefetch(const Impl* impl) const {
    const char* const at = reinterpret_cast<const char*>(words(impl));
    for (int word : {2, extent_at_, extent_at_ + 7, extent_at_ + 14})
      __builtin_prefetch(at + 8 * word);
  }

 private:
  // The beginning of THPVariable.
  struct Object {
    PyObject head;
    const Impl* impl;
  };
  // A later part of c10::TensorImpl; it starts at a different word in each release.
  struct Extent {
    static constexpr uint64_t inlined = 5;
    uint64_t dimensions;
    int64_t shape[inlined];
    int64_t strides[inlined];
    int64_t offset;
    int64_t size;
    uint16_t dtype;
    uint16_t other[3];
    uint64_t keys;
  };

  bool find(PyObject* torch);
  bool confirm(PyObject* torch, Ask ask) const;
  bool reads_alike(PyObject* tensor, Ask ask) const;
  uint64_t keys_of(PyObject* tensor) const {
    return reinterpret_cast<const Extent*>(words(impl_of(tensor)) + extent_at_)->keys;
  }

  bool known_ = false;
  int extent_at_ = 0;                      // words from the start of c10::TensorImpl
  uint16_t dtypes_[dtype_count] = {};      // torch's numbers for DType
  uint64_t cpu_keys_ = 0, cuda_keys_ = 0;  // of plain tensors; 0 is of none
};

}  // namespace fastopt
