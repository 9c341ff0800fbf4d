// Keeps the memory of tensors by the counts of references that torch keeps in their storages,
// without a call.
//
// Work beside which other threads run holds its memory, since `tensor.data = ...` elsewhere frees
// it. Through Python, to hold a storage takes 100 ns: torch makes an object of it. What is counted
// here is looked up and confirmed as the layout of tensors is (bindings/tensor_layout.h); where
// anything is otherwise, torch is asked.
#pragma once

#include <Python.h>

#include <cstdint>

#include "bindings/tensor_layout.h"

namespace fastopt {

class StorageCounts {
 public:
  using Storage = TensorLayout::Storage;

  explicit StorageCounts(const TensorLayout& tensors);

  bool known() const { return known_; }

  // One reference more, to a storage that is there. Both need known counts and the GIL.
  static void hold(Storage* storage) {
    __atomic_fetch_add(&storage->references, 1, __ATOMIC_RELAXED);
  }

  // One fewer, and whatever torch does where it was the last, or the last but that of the
  // storage's Python object.
  void let_go(Storage* storage) const {
    uint64_t seen = __atomic_load_n(&storage->references, __ATOMIC_RELAXED);
    while (strong(seen) > 2 || (strong(seen) == 2 && seen >> 63 == 0)) {
      if (__atomic_compare_exchange_n(&storage->references, &seen, seen - 1, true, __ATOMIC_ACQ_REL,
                                      __ATOMIC_RELAXED)) {
        return;
      }
    }
    leave_to_torch(storage);
  }

 private:
  // The lower half of what is counted; above it are the weak references and, as the highest bit,
  // whether the storage has a Python object.
  static uint32_t strong(uint64_t references) { return static_cast<uint32_t>(references); }

  bool confirm(PyObject* torch) const;
  void leave_to_torch(Storage* storage) const;

  bool known_ = false;
  PyObject* empty_ = nullptr;  // a tensor of no elements
};

}  // namespace fastopt
