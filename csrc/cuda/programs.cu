// Launches the steps of programs.
#include "cuda/branches.h"
#include "cuda/launchers.h"
#include "cuda/program_launch.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

template <class T>
const char* run(const BoundProgram& program, const CudaStep& step, void* stream) {
  const StageShape shape = {program.length, program.arrays, 0, program.written, 0, 0};
  return run_stage<T>(shape, program, step, [](int64_t) { return OwnNumbers{}; }, stream);
}

}  // namespace

const char* run_program(const BoundProgram& program, DType compute, const CudaStep& step,
                        const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return compute == DType::float64 ? run<double>(program, step, place.stream)
                                   : run<float>(program, step, place.stream);
}

int64_t branches_scratch(const CudaBranches& branches, const CudaStep& step) {
  return BranchesRun(branches, step).size();
}

const char* run_branches(const CudaBranches& branches, DType compute, const CudaStep& step,
                         double* scratch, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  BranchesRun run(branches, step);
  return compute == DType::float64 ? run.run<double>(scratch, place.stream)
                                   : run.run<float>(scratch, place.stream);
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
