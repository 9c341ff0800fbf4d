// One target's kernels of the rules with norms: see target.cpp.
#include "cpu/kernel.h"
#include "cpu/normed_loop.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_PASSES(Rule, T, Array) \
  {update_states<Rule<T>, T, Array>, step_by<Rule<T>, T, Array>}
#define FASTOPT_KERNELS(Rule)                                                                  \
  {FASTOPT_PASSES(Rule, float, ArrayOf<float>), FASTOPT_PASSES(Rule, double, ArrayOf<double>), \
   FASTOPT_PASSES(Rule, float, MixedArray), FASTOPT_PASSES(Rule, float, MixedArray)},
extern const NormedKernels normed[][form_count];
const NormedKernels normed[][form_count] = {FASTOPT_NORMED_RULES(FASTOPT_KERNELS)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
