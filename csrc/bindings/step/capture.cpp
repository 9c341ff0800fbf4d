#include "bindings/step/capture.h"

#include <stdexcept>

#include "bindings/cuda.h"

namespace fastopt {

bool Captures::on(int device) {
  const auto found = devices_.find(device);
  if (found != devices_.end()) return found->second;
  const bool captured = CudaLibrary::get().captures(device);
  any_ |= captured;
  return devices_[device] = captured;
}

void Captures::clear() {
  devices_.clear();
  any_ = false;
}

void refuse_captured_number(const Plan& plan, const std::string& name) {
  const char* remedy = plan.group.contains("capturable") ? "capturable=True"
                       : plan.group.contains("fused")    ? "fused=True"
                                                         : "it on the parameter's device";
  throw std::runtime_error(name + " lies on the CPU while a CUDA graph captures the step, and " +
                           "every replay would be of the same number; expected " + remedy);
}

void refuse_captured_entry(const Plan& plan, const std::string& name, bool is_number) {
  if (is_number && !plan.counts_on_device) refuse_captured_number(plan, name);
  throw std::runtime_error(name +
                           " would be made by a step that a CUDA graph captures, and anew by every "
                           "replay; expected a step before the capture");
}

}  // namespace fastopt
