// Looking at torch's objects when fastopt is first used, to learn where torch keeps things.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// probe(torch), outside of inference mode, whose tensors have other keys; false for a torch that
// lacks an attribute which it asks for.
template <class Probe>
bool probe_torch(Probe probe) {
  namespace py = pybind11;
  try {
    const py::object torch = py::module_::import("torch");
    const py::object inference = torch.attr("inference_mode")(false);
    inference.attr("__enter__")();
    bool found = false;
    try {
      found = probe(torch);
    } catch (py::error_already_set&) {
    }
    inference.attr("__exit__")(py::none(), py::none(), py::none());
    return found;
  } catch (py::error_already_set&) {
    return false;
  }
}

}  // namespace fastopt
