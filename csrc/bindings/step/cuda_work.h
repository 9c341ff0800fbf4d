// The part of a step that CUDA devices do.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "bindings/cuda.h"
#include "bindings/step/clock.h"
#include "bindings/step/memory.h"
#include "bindings/step/plan.h"
#include "bindings/step/reading.h"
#include "cpu/overlap.h"

namespace fastopt {

// What a step gathers for CUDA devices before it writes.
struct CudaWork {
  void add(const Memory& memory, const Plan& plan, Reading& reading);
  void clear();
  std::set<int> devices() const;  // of parameters and counters; an empty parameter has only these

  // The device of all of them; cpu_device if there are several, or none.
  int sole_device() const;

  bool share_memory();  // whether parameters do

  struct Group {
    std::shared_ptr<const void> options;
    CudaStep step;  // of them
    const Plan* plan;
  };
  struct Param {
    CudaItem item;
    DType compute;
    const Packing* packing;  // nullptr where there is none
    const uint64_t* rounding;
    const BoundRule* program;       // nullptr for a compiled rule
    std::vector<CudaNumber> given;  // of its numbers, what lies on the device
    int device, layout;
    std::size_t group;
  };

  struct Product {
    CudaProduct entry;
    int device;
    std::size_t group;
  };

  std::vector<Group> groups;
  std::vector<Param> params;
  struct Counter {
    CudaCounter entry;
    int device;
  };
  std::vector<Counter> counters;
  std::vector<Product> products;  // those that lie on a device

  // Whether a parameter meets a rule that asks for nothing but whether this is its first step.
  bool has_first_step = false;
  bool capturable = false;  // some group

 private:
  std::size_t place_of(const Plan& plan);

  std::deque<Packing> packings_;  // of the items that have one
  Shared shared_;                 // what programs are in
  SharedMemory memory_;
};

// The sum of squares of the gradients on a device, in the first of these; no tensor if there are
// none. Nothing waits for it.
std::optional<Doubles> squares_on(const CudaWork& work, int device, int layout);

// Counts the steps and steps the parameters. `found_inf` lies on the sole device, or is nullptr.
// Throws std::runtime_error for a launch that fails, which says what is done by then; `left_over`
// parameters have been stepped by torch.
void step_on_devices(CudaWork& work, const CudaNumber& grad_factor, const float* found_inf,
                     std::size_t left_over);

}  // namespace fastopt
