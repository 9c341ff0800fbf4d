// The update rules' kernels for masters, random rounding and states in 8 bits.
#include "cuda/choose.h"
#include "cuda/launchers.h"
#include "cuda/packed.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {

#define FASTOPT_LAUNCHER(Rule) &launch_kernel<Rule<float>, PackedKernels<Rule<float>>>,
const PackedLauncher packed_launchers[] = {FASTOPT_RULES(FASTOPT_LAUNCHER)};

int64_t packed_chunks(const CudaPackedItem& item) { return chunks_of(item); }

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
