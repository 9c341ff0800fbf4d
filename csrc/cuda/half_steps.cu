// The update rules' kernels for arrays stored in 16 bits, wholly or in part.
#include "cuda/launchers.h"
#include "cuda/step.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_LAUNCHERS(Rule) \
  {&launch_step<Rule, float, ArrayOf<bfloat16>>, &launch_step<Rule, float, MixedArray>},
const StepLauncher half_step_launchers[][half_form_count] = {FASTOPT_RULES(FASTOPT_LAUNCHERS)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
