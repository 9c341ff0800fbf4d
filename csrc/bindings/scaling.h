// What a torch.amp.GradScaler asks of a step that it leaves unscaling and skipping to.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/cuda.h"

namespace fastopt {

// Two tensors of one element, or None: the factor of the gradients, and whether one of them is
// infinite or NaN. Those that lie on a device can be left to its kernels.
class Scaling {
 public:
  Scaling(pybind11::object grad_scale, pybind11::object found_inf)
      : grad_scale_(std::move(grad_scale)),
        found_inf_(std::move(found_inf)),
        scale_at_(device_number(grad_scale_.ptr(), true)),
        found_at_(device_number(found_inf_.ptr(), true)) {}

  bool has_scale() const { return !grad_scale_.is_none(); }
  const DeviceNumber& scale_at() const { return scale_at_; }

  bool has_found_inf() const { return !found_inf_.is_none(); }
  const DeviceNumber& found_at() const { return found_at_; }

  // These wait for a device.
  double scale() const { return has_scale() ? grad_scale_.attr("item")().cast<double>() : 1; }
  bool found_inf() const {
    return has_found_inf() && found_inf_.attr("item")().cast<double>() != 0;
  }

 private:
  const pybind11::object grad_scale_, found_inf_;
  const DeviceNumber scale_at_, found_at_;
};

}  // namespace fastopt
