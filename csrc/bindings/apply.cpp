#include "bindings/apply.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "bindings/checks.h"
#include "bindings/cuda.h"
#include "bindings/held.h"
#include "bindings/item.h"
#include "bindings/rules.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/float_mode.h"
#include "cpu/overlap.h"
#include "cpu/parallel.h"
#include "numeric/clip.h"

namespace py = pybind11;

namespace fastopt {
namespace {

struct NamedBytes : Bytes {
  std::string name;
};

// What one array must be, given the parameter that it belongs to.
void check_array(const Array& array, const Array& param, const std::string& name,
                 const std::string& param_name, bool written) {
  const DLTensor &view = array.view(), &like = param.view();
  check_same_device(array, name, param, param_name);
  check_dtype(array, name);
  if (!stored_with(view, like)) {
    throw py::type_error(name + ": expected " +
                         (dtype_of(like) == static_cast<int>(DType::float64)
                              ? "float64 like "
                              : "float32, bfloat16 or float16 beside ") +
                         param_name + ", got " + dtype_name(view));
  }
  if (!same_shape(view, like)) {
    throw py::value_error(name + ": expected shape " + shape_text(like) + " like " + param_name +
                          ", got " + shape_text(view));
  }
  check_layout(array, name, written);
}

// What a copy must be, likewise.
void check_copy(const Array& copy, const Array& param, const std::string& name,
                const std::string& param_name) {
  const DLTensor &view = copy.view(), &like = param.view();
  check_same_device(copy, name, param, param_name);
  check_dtype(copy, name);
  if (!copied_to(view, like)) {
    const bool is_double = dtype_of(like) == static_cast<int>(DType::float64);
    throw py::type_error(
        name + ": expected " + (is_double ? "float64 or float32" : "float32, bfloat16 or float16") +
        " for " + param_name + " of " + dtype_name(like) + ", got " + dtype_name(view));
  }
  if (!same_shape(view, like)) {
    throw py::value_error(name + ": expected shape " + shape_text(like) + " like " + param_name +
                          ", got " + shape_text(view));
  }
  check_layout(copy, name, true);
}

// No written array may share memory with another one.
void check_overlap(std::vector<NamedBytes>& all) {
  const auto [other, bytes] = find_shared(all);
  if (bytes == nullptr) return;
  throw py::value_error(bytes->name + ": expected memory of its own, got memory shared with " +
                        other->name);
}

// Whether an int is another number than the double that was made of it.
bool is_rounded(py::handle object, double value) {
  if (!PyIndex_Check(object.ptr())) return false;
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {  // a tensor of floats
    take_refusal();
    return false;
  }
  return !index.equal(py::int_(static_cast<long long>(value)));
}

double step_number(py::handle object, const std::string& name) {
  constexpr const char* accepted = "a whole number from 1 to 2**53";
  constexpr double last = 9007199254740992.0;
  const double step = number(object, name.c_str(), accepted);
  if (!(step >= 1) || step != std::floor(step) || step > last ||
      (step == last && is_rounded(object, last))) {
    throw py::value_error(name + ": expected " + accepted + ", got " + text(object));
  }
  return step;
}

// What gradients of this scale are multiplied by.
double factor_of(const py::object& grad_scale) {
  if (grad_scale.is_none()) return 1;
  constexpr const char* accepted = "a finite number above 0 or None";
  const double scale = number(grad_scale, "grad_scale", accepted);
  if (!(scale > 0) || std::isinf(scale)) {
    throw py::value_error(std::string("grad_scale: expected ") + accepted + ", got " +
                          text(grad_scale));
  }
  return host::Clip(0, std::numeric_limits<double>::infinity(), scale).factor;
}

// While a graph captures a call, its numbers become the graph's, as for torch; one that lies in a
// tensor is there to be changed, and no replay would see it.
void refuse_captured_array(const std::string& name, py::handle value) {
  if (py::isinstance<py::tuple>(value) || py::isinstance<py::list>(value)) {
    for (py::handle part : value) refuse_captured_array(name, part);
  } else if (py::hasattr(value, "__dlpack__")) {
    throw std::runtime_error(name + ": expected a number while a CUDA graph captures the call, " +
                             "got an array, whose later values no replay would see");
  }
}

class Call {
 public:
  Call(AnyRule& rule, const py::list& arrays, const py::list& steps, bool indexed,
       const std::array<std::string, 2>& names, double grad_factor, const py::object& copy_to)
      : rule_(rule),
        arrays_(arrays),
        steps_(steps),
        indexed_(indexed),
        names_(names),
        grad_factor_(grad_factor),
        copies_(copy_to) {}

  void prepare() {
    const std::size_t count = py::len(arrays_[0]);
    for (std::size_t argument = 1; argument < arrays_.size(); ++argument) {
      if (!arrays_[argument].is_none() && py::len(arrays_[argument]) != count) {
        throw py::value_error(argument_name(argument) + ": expected " + std::to_string(count) +
                              " arrays like " + names_[0] + ", got " +
                              std::to_string(py::len(arrays_[argument])));
      }
    }
    if (steps_.size() != count) {
      throw py::value_error("step: expected one number" +
                            (indexed_
                                 ? " or a list of " + std::to_string(count) + " like " + names_[0]
                                 : std::string()) +
                            ", got a list of " + std::to_string(steps_.size()));
    }
    if (!copies_.is_none() && py::len(copies_) != count) {
      throw py::value_error("copy_to: expected " + std::to_string(count) + " arrays like " +
                            names_[0] + ", got " + std::to_string(py::len(copies_)));
    }
    rules_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) add(i);
    check_overlap(bytes_);
    held_.settle(!cuda_items_.empty() || !cuda_programs_.empty());
  }

  // Whether a graph captures some of it.
  bool is_captured() const {
    return std::any_of(captures_.begin(), captures_.end(),
                       [](const auto& it) { return it.second; });
  }

  void run(int threads) {
    const AnyRule& there = rule_.on_devices();
    const std::shared_ptr<const void> options = there.options();
    CudaStep step;
    step.rule = there.index();
    step.options = options.get();
    step.grad_factor = CudaNumber::of(grad_factor_);
    for (const auto& [device, items] : cuda_items_) {
      CudaLibrary::get().step(step, items, {}, device);
    }
    for (const auto& [device, programs] : cuda_programs_) programs.step(step, device);
    for (const Item& item : walked_) target().copy(item, 0, item.size);
    held_.run([&] { fastopt::run(items_, threads); });
  }

 private:
  std::string argument_name(std::size_t argument) const {
    return argument < 2 ? names_[argument] : rule_.state_name(static_cast<int>(argument) - 2);
  }

  std::string name(std::size_t argument, std::size_t i) const {
    return argument_name(argument) + (indexed_ ? "[" + std::to_string(i) + "]" : "");
  }

  void add(std::size_t i) {
    const Array& param = held_.take(py::list(arrays_[0])[i], name(0, i));
    check_array(param, param, name(0, i), name(0, i), true);
    Item item;
    begin_item(item, param.view());
    const double step =
        step_number(steps_[i], indexed_ ? "step[" + std::to_string(i) + "]" : "step");
    hold(item, 0, param, i);
    for (std::size_t argument = 1; argument < 2u + rule_.state_count(); ++argument) {
      const bool used = argument == 1 || rule_.uses(static_cast<int>(argument) - 2);
      if (!used) continue;
      if (arrays_[argument].is_none()) {
        throw py::type_error(argument_name(argument) + ": expected an array like " + names_[0] +
                             " (these options need it), got None");
      }
      const Array& array = held_.take(py::list(arrays_[argument])[i], name(argument, i));
      check_array(array, param, name(argument, i), name(0, i), argument != 1);
      hold(item, argument, array, i);
    }
    if (!copies_.is_none()) take_copy(item, param, i);
    set_kernel(item, rule_);
    if (has_half_states(item)) item.rounding.dither = dither_at(step);
    const int device = CudaLibrary::get().device_of(param.view());
    if (device != cpu_device) {
      if (const char* why = unfit_for_devices(rule_, has_half_states(item))) {
        throw py::value_error(name(0, i) + ": " + why + ", got memory of " +
                              device_name(param.view()));
      }
      check_captured(device, rule_.counts_steps() || has_half_states(item));
      if (item.copy != nullptr && on_cpu(param.view())) walked_.push_back(item);
      const CudaItem made = cuda_item(item, CudaNumber::of(step), CudaNumber::of(rule_.product()),
                                      CudaNumber::of(step));
      AnyRule& there = rule_.on_devices();
      if (!there.is_program()) {
        cuda_items_[device].push_back(made);
      } else {
        const BoundRule bound = there.at_step(compute_type(item), step, there.product());
        if (const char* why = unfit_program(bound)) throw py::value_error(name(0, i) + ": " + why);
        cuda_programs_[device].add(bound, compute_type(item), made);
      }
      return;
    }
    rules_.push_back(rule_.at_step(compute_type(item), step, rule_.product()));
    rules_.back().tail.grad_factor = grad_factor_;
    item.rule = &rules_.back();
    items_.push_back(item);
  }

  void take_copy(Item& item, const Array& param, std::size_t i) {
    const std::string name = indexed_ ? "copy_to[" + std::to_string(i) + "]" : "copy_to";
    const Array& copy = held_.take(py::list(copies_)[i], name);
    check_copy(copy, param, name, this->name(0, i));
    if (item.size == 0) return;
    set_copy(item, copy.view());
    const char* begin = static_cast<const char*>(item.copy);
    bytes_.push_back({{begin, begin + item.size * element_bytes(copy.view()), true}, name});
  }

  // Refuses what every replay of a graph would do as if it were the same step.
  void check_captured(int device, bool counts_steps) {
    if (captures_.count(device) == 0) captures_[device] = CudaLibrary::get().captures(device);
    if (!captures_[device] || !counts_steps) return;
    throw std::runtime_error(
        "step: a number of the CPU, while a CUDA graph captures the call, and every replay would "
        "be of the same step; expected an optimizer, which counts on the device");
  }

  // Arrays at the same step share one.
  const HalfDither* dither_at(double step) {
    if (dithers_.empty() || step != last_dither_) {
      make_dither(step, dithers_.emplace_back());
      last_dither_ = step;
    }
    return &dithers_.back();
  }

  void hold(Item& item, std::size_t argument, const Array& array, std::size_t i) {
    set_array(item, static_cast<int>(argument), array.view());
    const char* begin = static_cast<const char*>(item.arrays[argument]);
    if (item.size > 0) {
      bytes_.push_back({{begin, begin + item.size * element_bytes(array.view()), argument != 1},
                        name(argument, i)});
    }
  }

  AnyRule& rule_;
  const py::list &arrays_, &steps_;
  bool indexed_;
  const std::array<std::string, 2>& names_;
  const double grad_factor_;
  const py::object& copies_;  // a list or None
  Held held_;
  std::vector<BoundRule> rules_;
  std::deque<HalfDither> dithers_;
  double last_dither_ = -1;
  std::vector<Item> items_;
  std::vector<Item> walked_;                         // of the walk, those that have copies
  std::map<int, std::vector<CudaItem>> cuda_items_;  // by device
  std::map<int, CudaPrograms> cuda_programs_;
  std::map<int, bool> captures_;  // whether a graph captures what a device is given
  std::vector<NamedBytes> bytes_;
};

}  // namespace

void apply(const std::string& rule_name, const py::list& arrays, const py::list& steps,
           const py::dict& options, bool indexed, int threads,
           const std::array<std::string, 2>& names, const py::object& grad_scale,
           const py::object& copy_to) {
  FloatMode mode;
  std::unique_ptr<AnyRule> rule = make_rule(rule_name);
  rule->read_options(options, Checks::ranges);
  AnyRule& there = rule->on_devices();
  if (&there != rule.get()) there.read_options(options, Checks::ranges);
  Call call(*rule, arrays, steps, indexed, names, factor_of(grad_scale), copy_to);
  call.prepare();
  if (call.is_captured()) {
    for (const auto& [name, value] : options) refuse_captured_array(py::str(name), value);
    refuse_captured_array("grad_scale", grad_scale);
  }
  call.run(threads);
}

}  // namespace fastopt
