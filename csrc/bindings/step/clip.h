// Clipping by the global norm, over all processes that hold a part of the parameters.
#pragma once

#include <optional>

#include "bindings/step/scaling.h"
#include "bindings/step/stepped.h"
#include "bindings/step/work.h"

namespace fastopt {

// What the gradients in `work` are multiplied by: 1 / scale, and less where their norm is too
// large. Tells the optimizer the norm. Throws, before anything is written, if the norm cannot be
// known, or is not finite and must be. Where one device has all that it takes, it stays there. The
// norm may be given, where the work is a part of a step.
CudaNumber grad_factor(Work& work, const Stepped& optimizer, int threads, const Scaling& scaling,
                       const std::optional<double>& norm);

}  // namespace fastopt
