// One target's passes over long vectors: see target.cpp.
#include "cpu/kernel.h"
#include "cpu/vector_loops.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_VECTORS(T) {measure<T>, pair<T>, dots<T>, combine<T>, move<T>}
extern const VectorKernels vectors[compute_count];
const VectorKernels vectors[compute_count] = {FASTOPT_VECTORS(float), FASTOPT_VECTORS(double)};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
