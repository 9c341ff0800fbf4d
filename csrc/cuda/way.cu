// The kernels of all rules for parameters that are stored in one way (cpu/kernel.h), a row of the
// table. Compiled once for each way, FASTOPT_WAY, that CUDA has kernels for (cmake/Cuda.cmake).
#include "cuda/batch.h"
#include "cuda/launchers.h"
#include "cuda/step.h"
#include "rules/list.h"

FASTOPT_TARGET_BEGIN

constexpr Way way = Way::FASTOPT_WAY;

template <DType numbers>
using Coded = OneStorage<numbers, DType::signed8, Master::none>;
using Rounded = OneStorage<DType::bfloat16, DType::bfloat16, Master::stochastic>;

template <class Rule, class Kernels>
const char* launch_items(const CudaStep& step, unsigned states, void* stream) {
  using Item = std::conditional_t<(way >= Way::coded), CudaPackedItem, CudaItem>;
  const RuleBytes rule = RuleBytes::of<Rule>();
  Batch<Item> batch(step, rule, states, Kernels::chunk, Kernels::longer, stream,
                    launch_kernel<Rule, Kernels>);
  return add_all(batch, way, states, step);
}

template <template <class> class Rule>
constexpr StepLauncher launcher_of() {
  using R = Rule<float>;
  if constexpr (way == Way::float32) {
    return launch_items<R, StepKernels<R, float, ArrayOf<float>>>;
  } else if constexpr (way == Way::float64) {
    return launch_items<Rule<double>, StepKernels<Rule<double>, double, ArrayOf<double>>>;
  } else if constexpr (way == Way::bfloat16) {
    return launch_items<R, StepKernels<R, float, ArrayOf<bfloat16>>>;
  } else if constexpr (way == Way::mixed) {
    return launch_items<R, StepKernels<R, float, MixedArray>>;
  } else if constexpr (way == Way::coded) {
    return launch_items<R, PackedKernels<R, Coded<DType::float32>>>;
  } else if constexpr (way == Way::bfloat16_coded) {
    return launch_items<R, PackedKernels<R, Coded<DType::bfloat16>>>;
  } else if constexpr (way == Way::rounded) {
    return launch_items<R, PackedKernels<R, Rounded>>;
  } else if constexpr (way == Way::split) {
    return launch_items<R, PackedKernels<R, SplitStorage>>;
  } else {
    return launch_items<R, PackedKernels<R>>;
  }
}

FASTOPT_TARGET_END

namespace fastopt {
namespace FASTOPT_TARGET {
namespace ways {

#define FASTOPT_LAUNCHER(Rule) launcher_of<Rule>(),
const StepLauncher FASTOPT_WAY[] = {FASTOPT_RULES(FASTOPT_LAUNCHER)};

}  // namespace ways
}  // namespace FASTOPT_TARGET
}  // namespace fastopt
