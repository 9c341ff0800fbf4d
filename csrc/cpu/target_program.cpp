// One target's interpreter of programs: see target.cpp.
#include "cpu/kernel.h"
#include "cpu/program_loop.h"

namespace fastopt {
namespace FASTOPT_TARGET {

extern const Kernel programs[compute_count];
const Kernel programs[compute_count] = {run_program<float>, run_program<double>};

extern const Pass passes[compute_count];
const Pass passes[compute_count] = {run_pass<float>, run_pass<double>};

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
