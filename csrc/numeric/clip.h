// The factor of the gradients: clipping by their norm, as torch.nn.utils.clip_grad_norm_ does, and
// division by a GradScaler's scale. In double.
#pragma once

#include "target.h"

FASTOPT_TARGET_BEGIN

// Of gradients whose norm is this once they are divided by `grad_scale`.
FASTOPT_HOST_DEVICE double clip_factor(double norm, double max_norm, double grad_scale) {
  const double clip = max_norm / (norm + 1e-6);
  const double factor = (clip > 1 ? 1 : clip) / grad_scale;
  // Without the payload of the gradient that it comes from: simd/pair.h asks for that.
  return factor != factor ? __builtin_nan("") : factor;
}

struct Clip {
  double norm, factor;

  // `squares` is the sum of squares before the division. An infinite `max_norm` clips nothing.
  FASTOPT_HOST_DEVICE Clip(double squares, double max_norm, double grad_scale)
      : norm(__builtin_sqrt(squares) / grad_scale),
        factor(clip_factor(norm, max_norm, grad_scale)) {}
};

FASTOPT_TARGET_END
