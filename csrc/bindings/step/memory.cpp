#include "bindings/step/memory.h"

#include <cstdint>
#include <stdexcept>
#include <utility>

#include "bindings/checks.h"

namespace fastopt {
namespace {

// Whether a dense tensor's storage was freed, as by resize_(0); not one that has none by its kind.
bool is_freed(py::handle tensor) {
  try {
    if (!tensor.attr("layout").is(py::module_::import("torch").attr("strided")) ||
        tensor.attr("device").attr("type").cast<std::string>() == "meta" ||
        tensor.attr("_is_zerotensor")().cast<bool>()) {
      return false;
    }
    return tensor.attr("numel")().cast<int64_t>() > 0 &&
           tensor.attr("untyped_storage")().attr("nbytes")().cast<int64_t>() == 0;
  } catch (py::error_already_set&) {  // a tensor of a transformation
    return false;
  }
}

}  // namespace

void Memory::begin(const Stepped& optimizer, Kind kind) {
  optimizer_ = &optimizer;
  kind_ = kind;
}

void Memory::clear() {
  held_.clear();
  seen_.clear();
  for (const Counted& it : counted_) torch_.storages().let_go(it.storage);
  counted_.clear();
}

PyObject* Memory::hold(py::object object) {
  held_.push_back(std::move(object));
  return held_.back().ptr();
}

// The storage is held beside the tensor, since `tensor.data = ...` in another thread puts another
// one in its place.
bool Memory::hold_storage(PyObject* tensor, View* view) {
  static PyObject* const untyped_storage = PyUnicode_InternFromString("untyped_storage");
  hold(py::reinterpret_borrow<py::object>(tensor));
  PyObject* storage = PyObject_CallMethodNoArgs(tensor, untyped_storage);
  if (storage == nullptr) throw py::error_already_set();
  hold(py::reinterpret_steal<py::object>(storage));
  if (!torch_.read(tensor, view)) return false;
  seen_.push_back({tensor, storage, data_of(*view)});
  return true;
}

std::string Memory::unreadable(PyObject* tensor) const {
  if (torch_.is_plain(tensor) && is_freed(tensor)) {
    if (dry()) return "without storage, which was freed";
    throw std::runtime_error(  // torch's step would read and write there
        "a tensor of shape " + text(py::handle(tensor).attr("shape")) +
        ": expected a parameter, gradient or state with storage, got one whose storage was freed");
  }
  if (torch_.is_plain(tensor)) return "sparse or without storage";
  return "of type " + std::string(Py_TYPE(tensor)->tp_name);
}

void Memory::check() const {
  constexpr const char* freed =
      "the memory of a parameter, a gradient or a state was freed while the step read it; "
      "nothing has been written";
  for (const Counted& it : counted_) {
    if (it.storage->data != it.data) throw std::runtime_error(freed);
  }
  for (const Seen& seen : seen_) {
    View view;
    if (torch_.read(seen.tensor, &view) && data_of(view) == seen.data) continue;
    const py::handle storage(seen.storage);
    const uint64_t offset =
        reinterpret_cast<uint64_t>(seen.data) - storage.attr("data_ptr")().cast<uint64_t>();
    if (offset < storage.attr("nbytes")().cast<uint64_t>()) continue;
    throw std::runtime_error(freed);
  }
}

}  // namespace fastopt
