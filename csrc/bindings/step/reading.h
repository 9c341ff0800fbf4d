// What is read of one parameter of a step: itself, its gradient and its states, to what a kernel
// takes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "bindings/item.h"
#include "bindings/step/candidates.h"
#include "bindings/step/clock.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/entries.h"
#include "bindings/step/memory.h"
#include "bindings/step/place.h"
#include "bindings/step/plan.h"
#include "cpu/packing.h"

namespace fastopt {

struct Reading {
  // Of the parameter alone.
  Reading(Memory& memory, Places& places, const Plan& plan, PyObject* param)
      : place(memory, places, plan, param) {
    begin_item(item, place.view);
  }

  Place place;
  Item item;                       // with no rule and no kernel
  std::optional<Packing> packing;  // with no dither
  Numbers numbers;
  CudaNumber dither_step = {};         // what makes the dither of states in 8 or 16 bits
  const uint64_t* rounding = nullptr;  // on a device: as in CudaPackedItem
  bool has_halves = false;             // states in 16 bits, of no elements, too
  Counts counts;
  PyObject* copy = nullptr;      // which the candidate holds
  py::object made;               // new states, a dict; null if there are none
  bool made_rule_state = false;  // some of the rule's own
};

// Throws Unfit for a parameter that the kernels do not take. Writes nothing, inserts nothing; the
// places keep what was noted.
Reading read(Memory& memory, Places& places, Kept& kept, const Plan& plan,
             const Candidate& candidate);

}  // namespace fastopt
