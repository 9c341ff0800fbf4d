#include "bindings/step/clock.h"

#include <string>

#include "cpu/float_mode.h"

namespace fastopt {

bool Clock::is_beside_param(const View& view, bool always) const {
  if (place_.device == cpu_device || CudaLibrary::get().device_of(view) != place_.device) {
    return false;
  }
  return !on_cpu(view) || plan_.counts_on_device || always;
}

Clock::Held Clock::read(PyObject* tensor, const char* name, bool always) const {
  View view;
  const bool readable = memory_.look(tensor, &view);
  Held held{};
  if (readable && is_beside_param(view, always)) held.there = device_number(tensor, true).number;
  if (held.there.on_device()) return held;
  if (!readable) memory_.unreadable(tensor);  // which throws where torch's step must not go, either
  if (!readable || !on_cpu(view) || dtype_of(view) < 0 || dtype_of(view) >= compute_count ||
      element_count(view) != 1 || !is_aligned(view)) {
    throw Unfit{std::string("its state's ") + name +
                " is no float32 or float64 tensor on the CPU, at a multiple of its size"};
  }
  if (plan_.capturable) {
    throw Unfit{std::string("its state's ") + name + " lies on the CPU, under capturable=True"};
  }
  if (place_.captured) refuse_captured_number(plan_, name);
  void* const data = data_of(view);
  held.stored = static_cast<DType>(dtype_of(view));
  if (held.stored == DType::float64) {
    held.here = {data, Count::float64, *static_cast<double*>(data)};
  } else {
    held.here = {data, Count::float32, *static_cast<float*>(data)};
  }
  return held;
}

CudaNumber Clock::count(PyObject* tensor) {
  if (tensor == nullptr) return CudaNumber::of(1);
  Held held = read(tensor, "step");
  if (held.there.on_device()) {
    counts_.add(CudaCounter{held.there, 1, 1});
    return held.there;
  }
  Count& next = held.here;
  next.value += 1;
  if (next.type == Count::float32) next.value = static_cast<float>(next.value);
  counts_.add(next);
  return CudaNumber::of(next.value);
}

CudaNumber Clock::multiply(PyObject* tensor, const CudaNumber& step) {
  const char* const name = plan_.rule->product_name();
  Held held = read(tensor, name);
  if (held.there.on_device()) {
    counts_.product_on_device = CudaProduct{held.there, step};
    return held.there;
  }
  if (step.on_device()) {
    throw Unfit{std::string("its state's ") + name + " lies on the CPU, but its step does not"};
  }
  FloatMode mode;
  Count& product = held.here;
  product.value = plan_.rule->next_product(held.stored, product.value, step.value);
  counts_.add(product);
  return CudaNumber::of(product.value);
}

void Clock::advance(const std::vector<PyObject*>& tensors, Numbers& numbers) {
  AnyRule& rule = *plan_.rule;
  std::vector<Count> here;
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    const std::string name = rule.kept_name(static_cast<int>(k));
    const Held held = read(tensors[k], name.c_str());
    if (held.there.on_device()) {
      numbers.there.push_back(held.there);
    } else {
      here.push_back(held.here);
      numbers.others.push_back(held.here.value);
    }
    if (!here.empty() && (numbers.step.on_device() || !numbers.there.empty())) {
      throw Unfit{"of its state's " + name + ", step and other numbers, some lie on the CPU"};
    }
  }
  if (here.empty()) return;
  if (rule.runs_python(numbers.others, numbers.step.value)) memory_.must_hold();
  FloatMode mode;
  std::vector<double> after = numbers.others;
  rule.advance(after, numbers.step.value);
  for (std::size_t k = 0; k < after.size(); ++k) here[k].value = after[k];
  counts_.of_rule = std::move(here);
}

void Clock::weigh(PyObject* tensor) {
  const double decay = plan_.tail.ema_decay, growth = 1 - decay;
  Held held = read(tensor, "ema_weight", true);
  if (held.there.on_device()) return counts_.add(CudaCounter{held.there, decay, growth});
  Count& next = held.here;
  if (next.type == Count::float64) {
    next.value = decay * next.value + growth;
  } else {
    const float product = static_cast<float>(decay) * static_cast<float>(next.value);
    next.value = product + static_cast<float>(growth);
  }
  counts_.add(next);
}

const BoundRule* Shared::rule_at(const Memory& memory, const Plan& plan, AnyRule& rule,
                                 const Numbers& numbers, DType compute) {
  const NumbersThere there = {numbers.step.on_device(), rule.reads_lr_there(),
                              !numbers.there.empty()};
  const double step = there.step ? 0 : numbers.step.value, product = numbers.product.value;
  if (&plan != plan_ || !(there == there_) || step != step_ || product != product_ ||
      compute != compute_ || numbers.others != others_) {
    const bool traces =
        there.any() ? rule.runs_python_there(step, there) : rule.runs_python({}, step);
    if (traces) memory.must_hold();
    FloatMode mode;
    rules_.push_back(there.any() ? rule.at_step_there(compute, step, there)
                                 : rule.at_step(compute, step, product));
    rules_.back().tail.ema_decay = plan.tail.ema_decay;
    plan_ = &plan;
    there_ = there;
    step_ = step;
    product_ = product;
    others_ = numbers.others;
    compute_ = compute;
  }
  return &rules_.back();
}

void Shared::set_grad_factor(double factor) {
  for (BoundRule& rule : rules_) rule.tail.grad_factor = factor;
}

void Shared::clear() {
  rules_.clear();
  dithers.clear();
  half_dithers.clear();
  plan_ = nullptr;
}

}  // namespace fastopt
