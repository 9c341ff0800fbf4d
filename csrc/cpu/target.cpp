// One target's kernels: every rule in every dtype. CMake compiles this file once per target, each
// time with that target's machine flags, FASTOPT_TARGET and FASTOPT_SIMD_*.
//
// Nothing but the tables below may leave this object file, and no standard-library template may be
// instantiated in it: see target.h. tests/test_symbols.py reads the symbols.
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/sum.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_KERNELS(Rule) {&kernel<Rule<float>, float>, &kernel<Rule<double>, double>},
extern const Kernel kernels[][dtype_count];
const Kernel kernels[][dtype_count] = {FASTOPT_RULES(FASTOPT_KERNELS)};

extern const Sum sums_of_squares[dtype_count];
const Sum sums_of_squares[dtype_count] = {sum_tree<float, true>, sum_tree<double, true>};
extern const Sum sum;
const Sum sum = sum_tree<double, false>;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
