// The arrays of one call of a kernel.
//
// Objects that are asked for an array or a number may run Python code (__dlpack__, __float__,
// __index__), which may free or move memory that has been read already. So once a call has taken
// all its arrays and read all its numbers, it settles: what was moved is refused.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <optional>
#include <string>

#include "bindings/tensor.h"

namespace fastopt {

class Held {
 public:
  // The array stays where it is for the length of the call.
  const Array& take(pybind11::handle object, const std::string& name);

  // Throws if an array's memory is not where it was; from here on no Python code may run. What
  // other threads may run beside holds all memory: long work, and launches.
  void settle(bool launches = false);

  // Long work lets other threads run, before which it holds the memory that it works on. Small work
  // is done before they would ask, and faster than holding.
  template <class Work>
  void run(Work work) const {
    std::optional<pybind11::gil_scoped_release> released;
    if (is_long_) released.emplace();
    work();
  }

 private:
  std::deque<Array> arrays_;
  bool is_long_ = false;
};

}  // namespace fastopt
