#include "bindings/step/cuda_work.h"

#include <stdexcept>
#include <string>

#include "bindings/item.h"
#include "bindings/tensor.h"

namespace py = pybind11;

namespace fastopt {
namespace {

void count_steps(const CudaWork& work, int device, const float* found_inf) {
  std::vector<CudaCounter> counters;
  for (const CudaWork::Counter& counter : work.counters) {
    if (counter.device == device) counters.push_back(counter.entry);
  }
  if (!counters.empty()) CudaLibrary::get().advance(counters, found_inf, device);
}

// After the steps have been counted.
void multiply_products(const CudaWork& work, int device, const float* found_inf) {
  for (std::size_t group = 0; group < work.groups.size(); ++group) {
    std::vector<CudaProduct> products;
    for (const CudaWork::Product& product : work.products) {
      if (product.device == device && product.group == group) products.push_back(product.entry);
    }
    CudaStep step = work.groups[group].step;
    step.found_inf = found_inf;
    if (!products.empty()) CudaLibrary::get().multiply(step, products, device);
  }
}

}  // namespace

// The place of the plan's group among those that devices work on.
std::size_t CudaWork::place_of(const Plan& plan) {
  if (groups.empty() || groups.back().plan != &plan) {
    CudaStep of_group;
    const AnyRule& rule = plan.rule->on_devices();
    const std::shared_ptr<const void> options = rule.options();
    of_group.rule = rule.index();
    of_group.options = options.get();
    of_group.lr = plan.lr.number;
    of_group.ema_decay = plan.tail.ema_decay;
    groups.push_back({options, of_group, &plan});
    capturable |= plan.capturable;
  }
  return groups.size() - 1;
}

// In the order in which AnyRule::at_step_there has them.
static std::vector<CudaNumber> given_of(const Plan& plan, const Numbers& numbers) {
  std::vector<CudaNumber> given;
  if (numbers.step.on_device()) given.push_back(numbers.step);
  if (plan.rule->on_devices().reads_lr_there()) given.push_back(plan.lr.number);
  given.insert(given.end(), numbers.there.begin(), numbers.there.end());
  return given;
}

void CudaWork::add(const Memory& memory, const Plan& plan, Reading& reading) {
  const int device = reading.place.device;
  // An empty parameter keeps numbers, too.
  if (reading.item.size > 0 || !reading.numbers.there.empty()) {
    has_first_step |= !plan.rule->counts_steps() && reading.made_rule_state;
    Item& item = reading.item;
    if (reading.packing) item.packing = &packings_.emplace_back(*reading.packing);
    AnyRule& rule = plan.rule->on_devices();
    set_kernel(item, rule);
    const Numbers& numbers = reading.numbers;
    const DType compute = compute_type(item);
    const BoundRule* const program =
        rule.is_program() ? shared_.rule_at(memory, plan, rule, numbers, compute) : nullptr;
    const char* const unfit = program == nullptr ? nullptr : unfit_program(*program);
    if (unfit != nullptr && reading.place.captured) {
      throw std::runtime_error(
          "a parameter " + std::string(unfit) +
          ", while a CUDA graph captures the step; expected a step without one");
    }
    if (unfit != nullptr) throw Unfit{unfit};
    params.push_back({cuda_item(item, numbers.step, numbers.product, reading.dither_step), compute,
                      item.packing, reading.rounding, program, given_of(plan, numbers), device,
                      reading.place.layout, place_of(plan)});
  }
  const Counts& counts = reading.counts;
  for (int i = 0; i < counts.device_count; ++i) counters.push_back({counts.on_device[i], device});
  if (counts.product_on_device) {
    products.push_back({*counts.product_on_device, device, place_of(plan)});
  }
}

void CudaWork::clear() {
  groups.clear();
  params.clear();
  counters.clear();
  products.clear();
  packings_.clear();
  shared_.clear();
  has_first_step = capturable = false;
}

std::set<int> CudaWork::devices() const {
  std::set<int> devices;
  int last = cpu_device;
  const auto add = [&](int device) {
    if (device != last) devices.insert(last = device);
  };
  for (const Param& param : params) add(param.device);
  for (const Counter& counter : counters) add(counter.device);
  return devices;
}

int CudaWork::sole_device() const {
  const std::set<int> all = devices();
  return all.size() == 1 ? *all.begin() : cpu_device;
}

bool CudaWork::share_memory() {
  memory_.clear();
  for (const Param& param : params) memory_.add(param.item);
  return memory_.any();
}

std::optional<Doubles> squares_on(const CudaWork& work, int device, int layout) {
  std::vector<Values> grads;
  int64_t chunks = 0;
  for (const CudaWork::Param& param : work.params) {
    if (param.device != device || param.layout != layout || param.item.size == 0) continue;
    const DType dtype = static_cast<DType>(param.item.dtypes[1]);
    grads.push_back({param.item.arrays[1], param.item.size, dtype});
    chunks += (param.item.size + sum_chunk - 1) / sum_chunk;
  }
  if (grads.empty()) return std::nullopt;
  Doubles scratch(device, 2 * chunks + 2);
  CudaLibrary::get().sum_of_squares(grads, scratch.data, device);
  return scratch;
}

namespace {

void launch_all(CudaWork& work, const CudaNumber& grad_factor, const float* found_inf) {
  const std::set<int> devices = work.devices();
  const bool one_by_one = work.share_memory();
  for (const int device : devices) {
    count_steps(work, device, found_inf);
    multiply_products(work, device, found_inf);
  }
  auto next = work.params.begin();
  while (next != work.params.end()) {  // the parameters of a group stand together
    const auto first = next;
    const CudaWork::Group& group = work.groups[first->group];
    while (next != work.params.end() && next->group == first->group) ++next;
    for (const int device : devices) {
      std::vector<CudaItem> plain;
      plain.reserve(static_cast<std::size_t>(next - first));
      std::vector<CudaPackedItem> packed;
      CudaPrograms programs;
      for (auto param = first; param != next; ++param) {
        if (param->device != device) continue;
        if (param->program != nullptr && param->packing == nullptr) {
          programs.add(*param->program, param->compute, param->item, param->given);
        } else if (param->program != nullptr) {
          programs.add(*param->program, param->compute,
                       CudaPackedItem{param->item, *param->packing, param->rounding}, param->given);
        } else if (param->packing == nullptr) {
          plain.push_back(param->item);
        } else {
          packed.push_back({param->item, *param->packing, param->rounding});
        }
      }
      CudaStep step = group.step;
      step.grad_factor = grad_factor;
      step.found_inf = found_inf;
      step.one_by_one = one_by_one;
      programs.step(step, device);
      if (!plain.empty() || !packed.empty()) CudaLibrary::get().step(step, plain, packed, device);
    }
  }
}

}  // namespace

void step_on_devices(CudaWork& work, const CudaNumber& grad_factor, const float* found_inf,
                     std::size_t left_over) {
  const CudaLibrary& library = CudaLibrary::get();
  const int64_t before = library.launches();
  try {
    launch_all(work, grad_factor, found_inf);
  } catch (const std::runtime_error& error) {
    const int64_t done = library.launches() - before;
    std::string told = error.what();
    if (done == 0 && left_over == 0) throw std::runtime_error(told + "; nothing has been written");
    told += "; of this step are done: ";
    if (left_over > 0) told += "the " + std::to_string(left_over) + " parameters left to torch, ";
    throw std::runtime_error(told + std::to_string(done) +
                             " launches, which count the steps that are counted on the device and "
                             "then step parameters in their order; not done: the other parameters, "
                             "counts on the host and states that the step has made");
  }
}

}  // namespace fastopt
