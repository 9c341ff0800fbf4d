// One target's kernels: every rule in every dtype, and dropout. CMake compiles this file once per
// target, each time with that target's machine flags, FASTOPT_TARGET and FASTOPT_SIMD_*.
//
// Nothing but the tables below may leave this object file, and no standard-library template may be
// instantiated in it: see target.h. tests/test_symbols.py reads the symbols.
#include "cpu/dropout_loop.h"
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

extern const DropoutKernel dropouts[storage_count];
const DropoutKernel dropouts[storage_count] = {dropout<float>, dropout<double>, dropout<bfloat16>,
                                               dropout<float16>};
extern const DropoutKernel dropout_rows[storage_count];
const DropoutKernel dropout_rows[storage_count] = {rows<float>, rows<double>, rows<bfloat16>,
                                                   rows<float16>};
extern const DropoutKernel dropout_masks[mask_kind_count];
const DropoutKernel dropout_masks[mask_kind_count] = {mask_bits, mask_bytes};
extern const PhiloxBlock philox;
const PhiloxBlock philox = philox_block;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
