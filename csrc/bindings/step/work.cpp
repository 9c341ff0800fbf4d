#include "bindings/step/work.h"

#include <utility>

#include "bindings/item.h"

namespace fastopt {
namespace {

// Whether a step over so many parameters and elements should let other threads run. Holding costs
// about a microsecond a parameter, which small ones do not repay; but no step is to keep the GIL
// for much longer than the 5 ms after which a thread that waits for it asks for it.
bool is_long(std::size_t params, int64_t elements) {
  constexpr int64_t some = 1 << 18, many = 1 << 23, worth_holding = 1 << 15;
  return elements > many ||
         (elements > some && elements > worth_holding * static_cast<int64_t>(params));
}

}  // namespace

void CpuWork::add(const Memory& memory, const Plan& plan, Reading& reading) {
  Item& item = reading.item;
  if (reading.packing) {
    Packing& packing = packings_.emplace_back(*reading.packing);
    if (packing.row > 0) packing.dither = shared.dithers.at(reading.dither_step.value);
    item.packing = &packing;
  }
  if (reading.has_halves) {
    item.rounding.dither = shared.half_dithers.at(reading.dither_step.value);
  }
  set_kernel(item, *plan.rule);
  item.rule = shared.rule_at(memory, plan, *plan.rule, reading.numbers, compute_type(item));
  if (plan.tail.clips) {
    grads(reading.place.layout).push_back({item.arrays[1], item.size, item.dtypes[1]});
  }
  items.push_back(item);
}

std::vector<Values>& CpuWork::grads(int layout) {
  const std::size_t place = static_cast<std::size_t>(layout - Layouts::plain);
  if (place >= grads_.size()) grads_.resize(place + 1);
  return grads_[place];
}

void CpuWork::clear() {
  items.clear();
  shared.clear();
  packings_.clear();
  for (auto& grads : grads_) grads.clear();
}

void Rest::clear() {
  counts.clear();
  new_states.clear();
  copies.clear();
  updated.clear();
  versions.clear();
  left_over.clear();
  late.clear();
}

void Rest::update(const Memory& memory, PyObject* tensor) {
  uint32_t* const version = memory.holds() ? nullptr : TorchReader::get().version_of(tensor);
  if (version != nullptr) {
    versions.push_back(version);
  } else {
    updated.push_back(tensor);
  }
}

void Work::add(const Plan& plan, PyObject* param, Reading reading) {
  const Place& place = reading.place;
  if (reading.item.size > 0) {
    elements += reading.item.size;
    if (is_long(cpu.items.size() + 1, elements)) memory.will_release();
  }
  if (place.device != cpu_device) {
    cuda.add(memory, plan, reading);
  } else if (reading.item.size > 0) {
    cpu.add(memory, plan, reading);
  }
  if (plan.copies && reading.item.size > 0) copy_memory.add(reading.item);
  if (reading.copy != nullptr && place.device != cpu_device) {
    rest.late.push_back(py::make_tuple(plan.group, py::handle(param), py::handle(reading.copy)));
  }
  const Counts& counts = reading.counts;
  for (int i = 0; i < counts.cpu_count; ++i) rest.counts.push_back(counts.on_cpu[i]);
  for (const Count& count : counts.of_rule) rest.counts.push_back(count);
  for (const CopyBack& copy : place.copies) rest.copies.push_back(copy);
  if (reading.made) {
    rest.new_states.push_back({py::reinterpret_borrow<py::object>(param), reading.made});
  }
  rest.update(memory, param);
  if (place.local != param) rest.update(memory, place.local);
  if (reading.copy != nullptr) rest.update(memory, reading.copy);
}

void Work::leave(const Plan& plan, const Candidate& candidate, const std::string& reason) {
  memory.must_hold();
  const py::handle param = candidate.param, copy = candidate.copy;
  rest.left_over.push_back(py::make_tuple(plan.named, param, reason));
  if (copy) rest.late.push_back(py::make_tuple(plan.named, param, copy));
}

void Work::clear() {
  cpu.clear();
  cuda.clear();
  rest.clear();
  copy_memory.clear();
  candidates.clear();
  plans.clear();
  places.clear();
  memory.clear();
  elements = 0;
  norm.reset();
}

Lent::Lent(Spec& spec) : spec_(spec) {
  if (spec.idle.empty()) {
    work_ = std::make_unique<Work>(spec.name);
  } else {
    work_ = std::move(spec.idle.back());
    spec.idle.pop_back();
  }
}

Lent::~Lent() {
  work_->clear();
  spec_.idle.push_back(std::move(work_));
}

}  // namespace fastopt
