// What a torch.amp.GradScaler asks of a step that it leaves unscaling and skipping to.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

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
        found_at_(device_number(found_inf_.ptr(), true)) {
    if (on_device()) return;
    // Read now: this runs Python code.
    if (has_scale()) scale_ = item_of(grad_scale_);
    if (has_found_inf()) found_ = item_of(found_inf_);
  }

  bool on_device() const { return scale_at_.number.on_device() || found_at_.number.on_device(); }

  bool has_scale() const { return !grad_scale_.is_none(); }
  const DeviceNumber& scale_at() const { return scale_at_; }

  bool has_found_inf() const { return !found_inf_.is_none(); }
  const DeviceNumber& found_at() const { return found_at_; }
  const pybind11::object& found_inf_object() const { return found_inf_; }

  // These wait for a device.
  double scale() const { return on_device() && has_scale() ? item_of(grad_scale_) : scale_; }
  bool found_inf() const {
    return (on_device() && has_found_inf() ? item_of(found_inf_) : found_) != 0;
  }

  // Throws for a number of which a graph's replays would have the one of its capture.
  void check_captured() const {
    const auto check = [](const char* name, bool on_host) {
      if (!on_host) return;
      throw std::runtime_error(std::string(name) +
                               ": expected a float32 or float64 tensor of one element on the "
                               "device while a CUDA graph captures the step");
    };
    check("grad_scale", has_scale() && !scale_at_.number.on_device());
    check("found_inf", has_found_inf() && !found_at_.number.on_device());
  }

 private:
  static double item_of(const pybind11::object& tensor) {
    return tensor.attr("item")().cast<double>();
  }

  const pybind11::object grad_scale_, found_inf_;
  const DeviceNumber scale_at_, found_at_;
  double scale_ = 1, found_ = 0;
};

}  // namespace fastopt
