// Clipping by the global norm, over all processes that hold a part of the parameters.
#pragma once

#include "bindings/group.h"
#include "bindings/scratch.h"

namespace fastopt {

// What the gradients in `scratch` are multiplied by: 1 / grad_scale, and less where their norm is
// too large. Tells the optimizer the norm. Throws, before anything is written, if the norm cannot
// be known, or is not finite and must be.
double grad_factor(Scratch& scratch, const py::object& optimizer, const TailOptions& tail,
                   int threads, double grad_scale);

}  // namespace fastopt
