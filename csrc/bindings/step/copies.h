// The tensors of the user's that a step also writes its parameters to, rounded: `copy_to`.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/step/candidates.h"
#include "bindings/step/memory.h"
#include "bindings/step/plan.h"
#include "bindings/step/reading.h"
#include "cpu/overlap.h"

namespace fastopt {

// A group's list as a tuple as long as its parameters; null if it has none. Throws what Python says
// of one that is wrong.
py::object copies_of(const Plan& plan, const Stepped& optimizer);

// Reads the candidate's into the reading's item. Throws what Python says of one that does not fit.
void read_copy(Memory& memory, const Plan& plan, const Candidate& candidate, Reading& reading);

// What a step has read, to see that each copy has memory of its own.
class CopyMemory {
 public:
  void add(const Item& item);
  void clear();
  bool any() const { return any_; }

  // Throws pybind11::value_error where one shares memory with anything else that the step works on.
  void check_apart();

 private:
  void add(const void* begin, int64_t bytes, bool is_copy);

  std::vector<Bytes> all_;  // "written" are the copies
  bool any_ = false;
};

}  // namespace fastopt
