#include "bindings/storage_counts.h"

#include <pybind11/pybind11.h>

#include <utility>

#include "bindings/probing.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

using Storage = StorageCounts::Storage;

enum class Object { none, of_before, there };  // of Python's, which a storage had or has

py::object zeros(const py::object& torch, int count) {
  return torch.attr("zeros")(count, "device"_a = "cpu");
}

Storage* storage_of(const py::object& tensor) {
  return TensorLayout::impl_of(tensor.ptr())->storage;
}

}  // namespace

StorageCounts::StorageCounts(const TensorLayout& tensors) {
  if (!tensors.known()) return;
  known_ = probe_torch([&](const py::object& torch) {
    py::object empty = zeros(torch, 0);
    if (!py::type::of(empty).is(torch.attr("Tensor"))) return false;  // under a mode
    empty_ = empty.release().ptr();
    return confirm(torch.ptr());
  });
}

// That torch counts what is counted here, and frees a storage when it should and not before.
bool StorageCounts::confirm(PyObject* module) const {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  const py::object use_count = torch.attr("_C").attr("_storage_Use_Count");
  const auto counts = [&](Storage* storage, uint32_t expected) {
    return strong(storage->references) == expected &&
           use_count(reinterpret_cast<uint64_t>(storage)).cast<uint32_t>() == expected;
  };

  const py::object tensor = zeros(torch, 2);
  Storage* const storage = storage_of(tensor);
  if (!counts(storage, 1)) return false;
  {
    const py::object detached = tensor.attr("detach")();
    if (storage_of(detached) != storage || !counts(storage, 2)) return false;
  }
  hold(storage);
  if (!counts(storage, 2)) return false;
  let_go(storage);
  if (!counts(storage, 1)) return false;
  const py::object object = tensor.attr("untyped_storage")();
  const uint32_t with_object = strong(storage->references);
  if (with_object < 2 || !counts(storage, with_object)) return false;
  hold(storage);
  let_go(storage);
  if (!counts(storage, with_object)) return false;

  for (const Object kind : {Object::none, Object::of_before, Object::there}) {
    const auto memory =
        py::reinterpret_steal<py::object>(PyByteArray_FromStringAndSize(nullptr, 8));
    const Py_ssize_t references = Py_REFCNT(memory.ptr());
    const auto is_freed = [&] { return Py_REFCNT(memory.ptr()) == references; };
    py::object freed = torch.attr("frombuffer")(memory, "dtype"_a = torch.attr("float32"));
    Storage* const last = storage_of(freed);
    hold(last);
    py::object its;
    if (kind != Object::none) its = freed.attr("untyped_storage")();
    freed = {};
    if (kind == Object::of_before) its = {};
    if (is_freed()) return false;
    let_go(last);
    if (is_freed() == (kind == Object::there)) return false;
    its = {};
    if (!is_freed()) return false;
  }
  return true;
}

// Puts the storage into a tensor, in the place of one that has others, and lets that go.
void StorageCounts::leave_to_torch(Storage* storage) const {
  try {
    const auto empty = py::reinterpret_borrow<py::object>(empty_);
    const py::object tensor = empty.attr("detach")();
    if (!py::type::of(tensor).is(py::type::of(empty)) || storage_of(tensor) != storage_of(empty)) {
      return;  // under a mode; the storage stays for good
    }
    TensorLayout::put_storage(tensor.ptr(), storage);
    __atomic_fetch_sub(&storage_of(empty)->references, 1, __ATOMIC_ACQ_REL);
  } catch (py::error_already_set&) {
  }
}

}  // namespace fastopt
