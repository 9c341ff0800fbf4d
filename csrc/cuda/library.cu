// The library's face: what a step works on, kernel by kernel.
#include "cuda/launchers.h"
#include "cuda/step.h"
#include "cuda/table.h"
#include "rules/sgd.h"

#ifndef __CUDACC__
namespace fastopt {
WalkOrder walk_order;
WalkEvents walk_events;
std::vector<std::function<void()>> walk_graph;
}  // namespace fastopt
extern "C" __attribute__((visibility("default"))) void fastopt_cuda_walk(int64_t first_block,
                                                                         int64_t last_block,
                                                                         bool backwards) {
  fastopt::walk_order = {first_block, last_block, backwards};
}
extern "C" __attribute__((visibility("default"))) fastopt::WalkEvents* fastopt_cuda_walk_events() {
  return &fastopt::walk_events;
}
extern "C" __attribute__((visibility("default"))) void fastopt_cuda_walk_replay() {
  for (const auto& launch : fastopt::walk_graph) launch();
}
extern "C" __attribute__((visibility("default"))) void fastopt_cuda_walk_forget() {
  fastopt::walk_graph.clear();
}
#endif

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

static_assert(static_cast<int>(Way::packed) == 8);
// [Way][rule].
constexpr const StepLauncher* launchers[way_count] = {
    ways::float32,        ways::float64, ways::bfloat16, ways::mixed, ways::coded,
    ways::bfloat16_coded, ways::rounded, ways::split,    ways::packed};

// Which ways and sets of states there are among items.
struct Kinds {
  static constexpr unsigned state_sets = 1u << max_states;
  bool there[way_count][state_sets] = {};

  template <class Item>
  void add(const Item* items, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      if (items[i].size > 0) there[items[i].way][states_of(items[i])] = true;
    }
  }
};

const char* run_step(const CudaStep& step, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  Kinds kinds;
  kinds.add(step.items, step.count);
  kinds.add(step.packed, step.packed_count);
  for (int way = 0; way < way_count; ++way) {
    for (unsigned states = 0; states < Kinds::state_sets; ++states) {
      if (!kinds.there[way][states]) continue;
      const char* error = launchers[way][step.rule](step, states, place.stream);
      if (error != nullptr) return error;
    }
  }
  return nullptr;
}

const char* trouble(const CudaPlace& place) {
  if (const char* error = driver_trouble()) return error;
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  StepTable table{};
  table.count = 1;  // of no elements, at a multiple of every packet
  for (void*& array : table.items[0].arrays) array = reinterpret_cast<void*>(uintptr_t{256});
  return launch<StepKernel<SGD<float>, float, ArrayOf<float>, 0>>(table, 1, place.stream);
}

int64_t launches() { return launches_so_far; }

constexpr CudaFace face = {cuda_abi,     device_count,       trouble,         captures,
                           launches,     run_step,           run_program,     branches_scratch,
                           run_branches, run_sum_of_squares, run_clip,        run_advance,
                           run_multiply, run_dropout,        run_dropout_mask};

}  // namespace
}  // namespace FASTOPT_TARGET
}  // namespace fastopt

extern "C" __attribute__((visibility("default"))) const fastopt::CudaFace* fastopt_cuda_face() {
  return &fastopt::FASTOPT_TARGET::face;
}
