// What one step of an optimizer gathers before it writes, and who lends the room for it.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/rules.h"
#include "bindings/step/cuda_work.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/plan.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"

namespace fastopt {

namespace py = pybind11;

// A group as a step takes it. All are read before any memory is: a number or a flag may be an
// object whose Python code does as it pleases, with the groups, too.
struct Plan {
  py::object group, params;  // a dict, a tuple
  py::object named;          // the group as the program has it, which may be another mapping
  AnyRule* rule = nullptr;   // with the group's options
  TailOptions tail;
  DeviceNumber lr;
  StateDtype wanted = StateDtype::own;
  bool has_master = false, rounds_at_random = false;
  bool capturable = false, counts_on_device = false;
  bool lr_on_host = false;         // in a tensor
  const char* to_torch = nullptr;  // why all of it needs torch's step
  std::size_t begin = 0, end = 0;  // its candidates
};

// A parameter of a plan, its gradient and its state as they are when the reading begins.
struct Candidate {
  PyObject* param;           // which the plan's tuple holds
  py::object grad, entries;  // without a gradient, only its layout counts
};

// What a step gathers before it writes. Kept between steps for its capacity, one per running step.
struct Scratch {
  struct Count {
    enum Type { float32, float64, int64 };
    void* counter;  // a step tensor's one element
    Type type;
    double value;  // the number that it will hold

    void store() const {
      if (type == float64) {
        *static_cast<double*>(counter) = value;
      } else if (type == float32) {
        *static_cast<float*>(counter) = static_cast<float>(value);
      } else {
        *static_cast<int64_t*>(counter) = static_cast<int64_t>(value);
      }
    }
  };
  struct NewState {
    py::object param;
    py::object entries;  // a dict, made with its first entry
  };
  struct CopyBack {
    py::object to, from;
  };

  struct Seen {
    PyObject *tensor, *storage;  // which are held
    const void* data;
  };

  explicit Scratch(const std::string& name) : name(name) {}

  // A rule for the group of this number, kept for its memory.
  AnyRule& rule_of_group(std::size_t group) {
    while (group >= group_rules.size()) group_rules.push_back(make_rule(name));
    return *group_rules[group];
  }

  const std::string name;
  std::vector<std::unique_ptr<AnyRule>> group_rules;
  std::vector<Plan> plans;
  std::vector<Candidate> candidates;
  std::vector<Item> items;
  std::vector<std::size_t> rule_of_item;
  std::vector<int> layout_of_item;
  CudaWork cuda;  // what CUDA devices do; the lists above are for the CPU
  Layouts layouts;
  std::vector<BoundRule> rules;
  std::deque<Packing> packings;  // of the items that have one
  std::deque<Dither> dithers;
  std::deque<HalfDither> half_dithers;
  std::vector<Values> grads;  // what the norm is taken of
  std::vector<double> partials;
  std::vector<Count> counts;
  // Whether other threads may run Python before the step is done, so that it must hold all memory
  // that it works on; else it works under the GIL, and nothing can go away.
  bool holds = false;
  std::vector<py::object> held;  // tensors and their storages, dense copies, parts of DTensors
  std::vector<Seen> seen;        // what of it is memory
  std::optional<double> norm;    // of all gradients, for the optimizer to tell
  std::vector<NewState> new_states;
  std::vector<CopyBack> copies;
  std::vector<PyObject*> updated;     // parameters that will be written; plans and held hold them
  std::vector<py::object> left_over;  // (group, param, reason)

  // How far each list has been filled, to take back what was gathered since.
  struct Mark {
    std::size_t items, counts, new_states, copies, updated, left_over, on_cuda, counters, products;
  };
  Mark mark() const {
    return {items.size(),       counts.size(),        new_states.size(),
            copies.size(),      updated.size(),       left_over.size(),
            cuda.params.size(), cuda.counters.size(), cuda.products.size()};
  }
  void roll_back(const Mark& to) {
    items.resize(to.items);
    rule_of_item.resize(to.items);
    layout_of_item.resize(to.items);
    counts.resize(to.counts);
    new_states.resize(to.new_states);
    copies.resize(to.copies);
    updated.resize(to.updated);
    left_over.resize(to.left_over);
    cuda.params.resize(to.on_cuda);
    cuda.counters.resize(to.counters);
    cuda.products.resize(to.products);
  }
  void clear() {
    roll_back({});
    for (const auto& rule : group_rules) rule->forget_steps();
    rules.clear();
    packings.clear();
    dithers.clear();
    half_dithers.clear();
    layouts.clear();
    cuda.clear();
    plans.clear();
    candidates.clear();
    held.clear();
    seen.clear();
    norm.reset();
  }
};

// A rule's name, the names of its states and its idle scratch; kept for the life of the process.
struct Spec {
  explicit Spec(const std::string& name) : name(name) {
    const std::unique_ptr<AnyRule> rule = make_rule(name);
    for (int i = 0; i < rule->state_count(); ++i) {
      const std::string name = rule->state_name(i);
      states.push_back(PyUnicode_InternFromString(name.c_str()));
      scales.push_back(PyUnicode_InternFromString((name + "_scale").c_str()));
    }
    for (int k = 0; k < rule->kept_count(); ++k) {
      kept.push_back(PyUnicode_InternFromString(rule->kept_name(k)));
    }
    counts_itself = !rule->counts_steps();
    if (const char* name = rule->product_name()) product = PyUnicode_InternFromString(name);
  }
  // What a state is stored in, as Python says: a DType, -1 for codes of 8 bits, or not asked yet.
  // By what the group wants, whether there are masters, whether codes are worth it, which states
  // are used, the parameter's dtype and the state.
  static constexpr signed char unasked = -2;
  static constexpr int codes = -1;
  signed char& stored_in(StateDtype wanted, bool has_master, bool worth, unsigned used, DType param,
                         int state) {
    const std::size_t key =
        ((((static_cast<std::size_t>(wanted) * 2 + has_master) * 2 + worth) << max_states | used) *
             dtype_count +
         static_cast<std::size_t>(param)) *
            max_states +
        static_cast<std::size_t>(state);
    if (key >= stored_in_.size()) stored_in_.resize(key + 1, unasked);
    return stored_in_[key];
  }

  std::string name;
  std::vector<PyObject*> states, scales, kept;
  PyObject* product = nullptr;  // where the rule keeps one
  bool counts_itself;           // steps, which torch's class does not
  std::vector<std::unique_ptr<Scratch>> idle;

 private:
  std::vector<signed char> stored_in_;
};

// Lends a scratch for one step. A step within a step, or in another thread, gets its own.
class Lent {
 public:
  explicit Lent(Spec& spec) : spec_(spec) {
    if (spec.idle.empty()) {
      scratch_ = std::make_unique<Scratch>(spec.name);
    } else {
      scratch_ = std::move(spec.idle.back());
      spec.idle.pop_back();
    }
  }
  ~Lent() {
    scratch_->clear();
    spec_.idle.push_back(std::move(scratch_));
  }
  Scratch* operator->() { return scratch_.get(); }
  Scratch* get() { return scratch_.get(); }

 private:
  Spec& spec_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace fastopt
