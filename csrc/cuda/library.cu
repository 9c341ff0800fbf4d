// The library's face: groups cut into launches.
#include "cuda/launchers.h"
#include "rules/list.h"

#ifndef __CUDACC__
namespace fastopt {
WalkOrder walk_order;
WalkEvents walk_events;
}  // namespace fastopt
extern "C" __attribute__((visibility("default"))) void fastopt_cuda_walk(int64_t first_block,
                                                                         int64_t last_block,
                                                                         bool backwards) {
  fastopt::walk_order = {first_block, last_block, backwards};
}
extern "C" __attribute__((visibility("default"))) fastopt::WalkEvents* fastopt_cuda_walk_events() {
  return &fastopt::walk_events;
}
#endif

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

#define FASTOPT_OPTIONS_SIZE(Rule) sizeof(Rule<float>::Options),
constexpr std::size_t options_sizes[] = {FASTOPT_RULES(FASTOPT_OPTIONS_SIZE)};

// Which kernel of its rule an item takes: by its form and the states that are there.
constexpr unsigned state_sets = 1u << max_states;
constexpr unsigned kind_count = form_count * state_sets;

template <class Item>
unsigned kind_of(const Item& item) {
  unsigned states = 0;
  for (int k = 0; k < max_states; ++k) states |= unsigned{item.arrays[2 + k] != nullptr} << k;
  return item.form * state_sets + states;
}

// The items of a step that one kernel takes, gathered until a table is full.
template <class Item>
class Batch {
 public:
  Batch(const CudaStep& step, const CudaPlace& place, unsigned kind)
      : step_(step),
        stream_(place.stream),
        form_(static_cast<int>(kind / state_sets)),
        wanted_(kind % state_sets) {
    __builtin_memcpy(table_.options, step.options, options_sizes[step.rule]);
    table_.lr = step.lr;
    table_.grad_factor = step.grad_factor;
    table_.ema_decay = step.ema_decay;
    table_.found_inf = step.found_inf;
    table_.count = 0;
  }

  const char* add(const Item& item) {
    Item& entry = table_.items[table_.count++];
    entry = item;
    entry.first_chunk = static_cast<uint32_t>(chunks_);
    chunks_ += chunks(item);
    return table_.count == TableOf<Item>::capacity || step_.one_by_one ? flush() : nullptr;
  }

  const char* flush() {
    if (table_.count == 0) return nullptr;
    const char* error = launch(table_);
    table_.count = 0;
    chunks_ = 0;
    return error;
  }

 private:
  static int64_t chunks(const CudaItem& item) { return chunks_of(item); }
  static int64_t chunks(const CudaPackedItem& item) { return packed_chunks(item); }

  const char* launch(const StepTable& table) const {
    const StepLauncher of_form = form_ < compute_count
                                     ? step_launchers[step_.rule][form_]
                                     : half_step_launchers[step_.rule][form_ - compute_count];
    return of_form(table, wanted_, chunks_, stream_);
  }
  const char* launch(const PackedTable& table) const {
    return packed_launchers[step_.rule](table, wanted_, chunks_, stream_);
  }

  const CudaStep& step_;
  void* const stream_;
  const int form_;
  const unsigned wanted_;
  TableOf<Item> table_;
  int64_t chunks_ = 0;
};

// All items of a list, kernel by kernel.
template <class Item>
const char* run_items(const CudaStep& step, const Item* items, int64_t count,
                      const CudaPlace& place) {
  bool there[kind_count] = {};
  for (int64_t i = 0; i < count; ++i) {
    if (items[i].size > 0) there[kind_of(items[i])] = true;
  }
  for (unsigned kind = 0; kind < kind_count; ++kind) {
    if (!there[kind]) continue;
    Batch<Item> batch(step, place, kind);
    const char* error = nullptr;
    for (int64_t i = 0; i < count && error == nullptr; ++i) {
      if (items[i].size > 0 && kind_of(items[i]) == kind) error = batch.add(items[i]);
    }
    if (error == nullptr) error = batch.flush();
    if (error != nullptr) return error;
  }
  return nullptr;
}

const char* run_step(const CudaStep& step, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  const char* error = run_items(step, step.items, step.count, place);
  return error != nullptr ? error : run_items(step, step.packed, step.packed_count, place);
}

const char* trouble(const CudaPlace& place) {
  if (const char* error = driver_trouble()) return error;
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  StepTable table{};
  table.count = 1;  // of no elements, at a multiple of every packet
  for (void*& array : table.items[0].arrays) array = reinterpret_cast<void*>(uintptr_t{256});
  return step_launchers[0][0](table, 0, 1, place.stream);
}

int64_t launches() { return launches_so_far; }

constexpr CudaFace face = {cuda_abi, device_count, trouble,        captures,    launches,
                           run_step, run_program,  summed_scratch, run_summed,  run_sum_of_squares,
                           run_clip, run_advance,  run_multiply,   run_dropout, run_dropout_mask};

}  // namespace
}  // namespace FASTOPT_TARGET
}  // namespace fastopt

extern "C" __attribute__((visibility("default"))) const fastopt::CudaFace* fastopt_cuda_face() {
  return &fastopt::FASTOPT_TARGET::face;
}
