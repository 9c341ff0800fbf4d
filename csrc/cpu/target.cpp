// What one target has besides the kernels of rules (cpu/way.cpp): sums, copies and passes over long
// vectors. CMake compiles this file and target_dropout.cpp, which takes as long as the rest, once
// per target.
#include "cpu/copy_loop.h"
#include "cpu/kernel.h"
#include "cpu/sum.h"
#include "cpu/vector_loops.h"

namespace fastopt {
namespace FASTOPT_TARGET {

extern const Sum sums_of_squares[dtype_count];
const Sum sums_of_squares[dtype_count] = {sum_tree<float, true>, sum_tree<double, true>,
                                          sum_tree_of<bfloat16>, sum_tree_of<float16>};
extern const Sum sum;
const Sum sum = sum_tree<double, false>;

#define FASTOPT_VECTORS(T) {measure<T>, pair<T>, dots<T>, combine<T>, move<T>}
extern const VectorKernels vectors[compute_count];
const VectorKernels vectors[compute_count] = {FASTOPT_VECTORS(float), FASTOPT_VECTORS(double)};

extern const Kernel copy;
const Kernel copy = copy_param;

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
