// The factor of the gradients: clipping by their norm, as torch.nn.utils.clip_grad_norm_ does, and
// division by a GradScaler's scale. In double.
#pragma once

#include "target.h"

FASTOPT_TARGET_BEGIN

struct Clip {
  double norm, factor;

  // `squares` is the sum of squares before the division. An infinite `max_norm` clips nothing.
  FASTOPT_HOST_DEVICE Clip(double squares, double max_norm, double grad_scale)
      : norm(__builtin_sqrt(squares) / grad_scale) {
    const double clip = max_norm / (norm + 1e-6);
    factor = (clip > 1 ? 1 : clip) / grad_scale;
    // Without the payload of the gradient that it comes from: simd/pair.h asks for that.
    if (factor != factor) factor = __builtin_nan("");
  }
};

FASTOPT_TARGET_END
