// The work of one step: what its readings come to, gathered before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/step/candidates.h"
#include "bindings/step/clock.h"
#include "bindings/step/copies.h"
#include "bindings/step/cuda_work.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/entries.h"
#include "bindings/step/memory.h"
#include "bindings/step/place.h"
#include "bindings/step/plan.h"
#include "bindings/step/reading.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"

namespace fastopt {

// What the CPU's kernels do.
class CpuWork {
 public:
  void add(const Memory& memory, const Plan& plan, Reading& reading);
  void clear();

  // The gradients that are cut up so; only where the step clips.
  std::vector<Values>& grads(int layout);

  std::vector<Item> items;
  Shared shared;  // what the items point to, with the packings
  std::vector<double> partials;

 private:
  std::deque<Packing> packings_;
  std::vector<std::vector<Values>> grads_;  // by layout
};

// What is stored and inserted around the kernels.
struct Rest {
  struct NewState {
    py::object param, entries;  // entries: a dict
  };

  std::vector<Count> counts;
  std::vector<NewState> new_states;
  std::vector<CopyBack> copies;
  // Parameters that will be written, which plans and memory hold; or only what counts their writes,
  // in a step that nothing runs beside.
  std::vector<PyObject*> updated;
  std::vector<uint32_t*> versions;
  std::vector<py::object> left_over;  // (group, param, reason)
  std::vector<py::object> late;       // (group, param, copy): for torch to copy at the end

  void update(const Memory& memory, PyObject* tensor);
  void clear();
};

// Kept between steps for its capacity, one per running step.
struct Work {
  explicit Work(const std::string& rule) : plans(rule) {}

  // Once for each parameter that the kernels take.
  void add(const Plan& plan, PyObject* param, Reading reading);
  void leave(const Plan& plan, const Candidate& candidate, const std::string& reason);
  void clear();

  Plans plans;
  Candidates candidates;
  Memory memory;
  Places places;
  CpuWork cpu;
  CudaWork cuda;
  Rest rest;
  CopyMemory copy_memory;
  int64_t elements = 0;        // of all readings
  std::optional<double> norm;  // of all gradients, for the optimizer to tell
};

// A rule's name, what its parameters may keep, and its idle work; for the life of the process.
struct Spec {
  explicit Spec(const std::string& name) : name(name), kept(*make_rule(name)) {}
  const std::string name;
  Kept kept;
  bool on_devices = false;  // the last step was, and so is the next one, most likely
  std::vector<std::unique_ptr<Work>> idle;
};

// Lends the room for one step. A step within a step, or in another thread, gets its own.
class Lent {
 public:
  explicit Lent(Spec& spec);
  ~Lent();
  Work& operator*() { return *work_; }

 private:
  Spec& spec_;
  std::unique_ptr<Work> work_;
};

}  // namespace fastopt
