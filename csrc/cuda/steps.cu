// The update rules' kernels for float32 and float64. half_steps.cu, which takes as long to compile,
// is apart for that.
#include "cuda/launchers.h"
#include "cuda/step.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_LAUNCHERS(Rule) \
  {&launch_step<Rule, float, ArrayOf<float>>, &launch_step<Rule, double, ArrayOf<double>>},
const StepLauncher step_launchers[][compute_count] = {FASTOPT_RULES(FASTOPT_LAUNCHERS)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
