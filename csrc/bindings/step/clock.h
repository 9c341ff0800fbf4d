// The numbers that a parameter's state counts: its step, the product that its rule keeps, the
// average's weight. Each is a value, or lies on a device.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "bindings/cuda.h"
#include "bindings/item.h"
#include "bindings/step/entries.h"
#include "bindings/step/memory.h"
#include "bindings/step/place.h"
#include "bindings/step/plan.h"

namespace fastopt {

// One that lies on the CPU.
struct Count {
  enum Type { float32, float64, int64 };
  void* counter;  // a tensor's one element
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

// What one step is to store of a parameter's numbers.
struct Counts {
  static constexpr int most = 4;  // the step, a product, the average's weight, the rounding's count
  std::array<Count, most> on_cpu;
  std::vector<Count> of_rule;  // the other numbers that the rule keeps, on the CPU
  std::array<CudaCounter, most> on_device;
  int cpu_count = 0, device_count = 0;
  std::optional<CudaProduct> product_on_device;

  void add(const Count& count) { on_cpu[cpu_count++] = count; }
  void add(const CudaCounter& count) { on_device[device_count++] = count; }
};

// What a rule's scalars are made of, beside its options.
struct Numbers {
  CudaNumber step = {}, product = {};  // of this step
  std::vector<double> others;          // before it
  std::vector<CudaNumber> there;       // in their place, where those lie on a device
};

// Reads one parameter's.
class Clock {
 public:
  Clock(Memory& memory, const Plan& plan, const Place& place, Counts& counts)
      : memory_(memory), plan_(plan), place_(place), counts_(counts) {}

  // One more on a step tensor: the number that it will hold. nullptr for one that a dry step lacks.
  CudaNumber count(PyObject* tensor);

  // The product, to which this step's factor comes. `tensor` is not nullptr.
  CudaNumber multiply(PyObject* tensor, const CudaNumber& step);

  // The other numbers that the rule keeps, which become those after this step, whose number is
  // there: what they were. On a device, its kernels advance them.
  void advance(const std::vector<PyObject*>& tensors, Numbers& numbers);

  // The sum of the weights in an average that began at 0: what the average of a constant 1 is.
  void weigh(PyObject* tensor);

  // Whether a number of the state lies on the parameter's device and not on the CPU. In the walk of
  // tests, all lies on the CPU, and the options say where it would, if it does not `always`.
  bool is_beside_param(const View& view, bool always = false) const;

 private:
  // What the tensor holds; on_device() only for one on the parameter's device.
  struct Held {
    CudaNumber there;
    Count here;
    DType stored;
  };
  Held read(PyObject* tensor, const char* name, bool always = false) const;

  Memory& memory_;
  const Plan& plan_;
  const Place& place_;
  Counts& counts_;
};

// Dithers by the step that makes them: parameters at the same step share one.
template <class Table>
class Dithers {
 public:
  const Table* at(double step) {
    if (made_.empty() || step != step_) {
      make_dither(step, made_.emplace_back());
      step_ = step;
    }
    return &made_.back();
  }
  void clear() { made_.clear(); }

 private:
  std::deque<Table> made_;
  double step_ = -1;  // of the latest
};

// The rule objects and the dithers of a step: parameters whose numbers are the same share one.
class Shared {
 public:
  // Of the plan's rule, or the one in its place on devices, whose other numbers are those that it
  // has last been advanced from.
  const BoundRule* rule_at(const Memory& memory, const Plan& plan, AnyRule& rule,
                           const Numbers& numbers, DType compute);

  void set_grad_factor(double factor);  // in all rules
  void clear();

  Dithers<Dither> dithers;
  Dithers<HalfDither> half_dithers;

 private:
  std::deque<BoundRule> rules_;
  // What the latest was made for.
  const Plan* plan_ = nullptr;
  NumbersThere there_;
  double step_ = -1, product_ = 0;
  std::vector<double> others_;
  DType compute_ = DType::float32;
};

}  // namespace fastopt
