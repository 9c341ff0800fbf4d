#include "bindings/held.h"

#include <algorithm>

namespace py = pybind11;

namespace fastopt {

const Array& Held::take(py::handle object, const std::string& name) {
  return arrays_.emplace_back(object, name);
}

void Held::settle(bool launches) {
  constexpr int64_t small = 1 << 18;
  int64_t elements = 0;
  for (const Array& array : arrays_) {
    elements += std::min(element_count(array.view()), small);
  }
  is_long_ = elements >= small;
  if (is_long_ || launches) {
    for (Array& array : arrays_) array.hold_storage();  // may run a mode's Python code
  }
  for (const Array& array : arrays_) array.check_unmoved();
}

}  // namespace fastopt
