// Launches the steps of programs.
#include "cuda/branches.h"
#include "cuda/launchers.h"
#include "cuda/program_launch.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

template <class T>
const char* run(const BoundProgram& program, const CudaStep& step, void* stream) {
  auto table = table_of<T>(step, program.length, program.arrays, 0);
  table.written = program.written;
  const auto its = [&](int64_t i) { return CudaProgramItem{step.items[i], nullptr, nullptr}; };
  return run_stage(table, program, step, its, stream);
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
