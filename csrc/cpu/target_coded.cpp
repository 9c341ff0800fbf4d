// One target's kernels for states in 8 bits beside float32 parameters: see target.cpp.
#include "cpu/coded.h"
#include "cpu/kernel.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_KERNELS(Rule) run_coded<Rule<float>, float>,
extern const Staged coded[];
const Staged coded[] = {FASTOPT_RULES(FASTOPT_KERNELS)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
