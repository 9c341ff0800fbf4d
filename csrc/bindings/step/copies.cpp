#include "bindings/step/copies.h"

#include <algorithm>
#include <string>

#include "bindings/cuda.h"
#include "bindings/item.h"
#include "bindings/step/dtensor.h"

namespace fastopt {
namespace {

// What of a copy lies in this process, if it is cut up as the parameter is or is that very part;
// else nullptr.
PyObject* local_copy(Memory& memory, const Place& place, PyObject* copy) {
  if (TorchReader::get().is_plain(copy) || !is_dtensor(copy)) return copy;
  memory.must_hold();
  if (!place.distribution) return nullptr;
  if (!same_distribution(distribution(copy), place.distribution)) return nullptr;
  return memory.hold(local_part(copy));
}

bool fits(Memory& memory, const Place& place, PyObject* copy, View* view) {
  PyObject* const local = local_copy(memory, place, copy);
  if (local == nullptr || !memory.look(local, view)) return false;
  if (CudaLibrary::get().device_of(*view) != place.device || view->negated) return false;
  if (!same_shape(*view, place.view) || dtype_of(*view) < 0) return false;
  if (!copied_to(*view, place.view)) return false;
  return element_count(*view) == 0 || (is_aligned(*view) && same_layout(*view, place.view));
}

}  // namespace

py::object copies_of(const Plan& plan, const Stepped& optimizer) {
  static PyObject* const name = PyUnicode_InternFromString("copy_to");
  PyObject* const listed = lookup(plan.group.ptr(), name);
  if (listed == nullptr) return {};
  py::object copies;
  if (PyList_Check(listed) || PyTuple_Check(listed)) {
    copies = py::reinterpret_steal<py::object>(PySequence_Tuple(listed));
    if (!copies) throw py::error_already_set();
    if (PyTuple_GET_SIZE(copies.ptr()) == PyTuple_GET_SIZE(plan.params.ptr())) return copies;
  }
  optimizer.check_copies(plan.group);
  throw py::value_error("copy_to: expected a list as long as the group's parameters");
}

void read_copy(Memory& memory, const Plan& plan, const Candidate& candidate, Reading& reading) {
  View view;
  if (!fits(memory, reading.place, candidate.copy, &view)) {
    memory.must_hold();
    memory.optimizer().check_copies(plan.group);
    throw py::value_error("copy_to: expected a tensor with memory of its own for a parameter of " +
                          shape_text(reading.place.view));
  }
  if (reading.item.size > 0) set_copy(reading.item, view);
  reading.copy = candidate.copy;
}

void CopyMemory::add(const void* begin, int64_t bytes, bool is_copy) {
  const char* const at = static_cast<const char*>(begin);
  if (at != nullptr) all_.push_back({at, at + bytes, is_copy});
}

void CopyMemory::add(const Item& item) {
  const auto bytes = [&item](DType dtype) {
    return item.size * dtype_bytes[static_cast<int>(dtype)];
  };
  for (int array = 0; array < max_arrays; ++array) {
    add(item.arrays[array], bytes(item.dtypes[array]), false);
  }
  if (item.packing != nullptr) {
    const bool is_whole = item.packing->master == Master::whole;
    add(item.packing->master_data, item.size * (is_whole ? 4 : 2), false);
    const int64_t row = std::max<int64_t>(item.packing->row, 1);
    const int64_t blocks = item.size / row * ((row + block_size - 1) / block_size);
    for (const float* scales : item.packing->scales) add(scales, 4 * blocks, false);
  }
  add(item.copy, bytes(item.copy_dtype), true);
  any_ |= item.copy != nullptr;
}

void CopyMemory::clear() {
  all_.clear();
  any_ = false;
}

void CopyMemory::check_apart() {
  if (find_shared(all_).first == nullptr) return;
  throw py::value_error(
      "copy_to: expected memory of their own, but one of its tensors shares memory with "
      "another, or with a parameter, a gradient or a state");
}

}  // namespace fastopt
