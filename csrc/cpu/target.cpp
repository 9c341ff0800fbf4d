// One target's kernels: every rule in every dtype. CMake compiles this file once per target, each
// time with that target's machine flags, FASTOPT_TARGET and FASTOPT_SIMD_*.
//
// Nothing but the table below may leave this object file, and no standard-library template may be
// instantiated in it: see target.h. tests/test_symbols.py reads the symbols.
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_KERNELS(Rule) {kernel<Rule<float>, float>, kernel<Rule<double>, double>},
extern const Kernel kernels[][dtype_count];
const Kernel kernels[][dtype_count] = {FASTOPT_RULES(FASTOPT_KERNELS)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
