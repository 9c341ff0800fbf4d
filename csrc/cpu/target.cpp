// One target's kernels: every rule in float32 and float64. CMake compiles this file once per
// target, each time with that target's machine flags, FASTOPT_TARGET and FASTOPT_SIMD_*; so are
// target_halves.cpp and target_dropout.cpp, which take as long to compile and are apart for that.
//
// Nothing but the tables below may leave these object files, and no standard-library template may
// be instantiated in them: see target.h. tests/installed/test_symbols.py reads the symbols.
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/sum.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_KERNELS(Rule) \
  {&kernel<Rule<float>, float, ArrayOf<float>>, &kernel<Rule<double>, double, ArrayOf<double>>},
extern const Kernel kernels[][compute_count];
const Kernel kernels[][compute_count] = {FASTOPT_RULES(FASTOPT_KERNELS)};

extern const Sum sums_of_squares[dtype_count];
const Sum sums_of_squares[dtype_count] = {sum_tree<float, true>, sum_tree<double, true>,
                                          sum_tree_of<bfloat16>, sum_tree_of<float16>};
extern const Sum sum;
const Sum sum = sum_tree<double, false>;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
