// One target's kernels for arrays stored in 16 bits, wholly or in part, and in 8: see target.cpp.
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/rounded.h"
#include "cpu/stage.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_KERNELS(Rule) \
  {&kernel<Rule<float>, float, ArrayOf<bfloat16, Pair>>, &kernel<Rule<float>, float, MixedArray>},
extern const Kernel half_kernels[][half_form_count];
const Kernel half_kernels[][half_form_count] = {FASTOPT_RULES(FASTOPT_KERNELS)};

#define FASTOPT_ROUNDED(Rule) run_rounded<Rule<float>>,
extern const Staged rounded[];
const Staged rounded[] = {FASTOPT_RULES(FASTOPT_ROUNDED)};

extern const Staged staged;
const Staged staged = run_staged;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
