#include "bindings/clip.h"

#include <cmath>
#include <limits>

#include "bindings/dtensor.h"
#include "cpu/norm.h"

namespace fastopt {
namespace {

// The squared norm of all gradients, over all processes that hold a part of them. This process
// sums up its own elements, those that are cut up alike together; Python knows the rest.
double total_squares(Scratch& scratch, const py::object& optimizer, int threads) {
  py::list parts;
  for (int layout = Layouts::plain; layout < scratch.layouts.size(); ++layout) {
    scratch.grads.clear();
    for (std::size_t i = 0; i < scratch.items.size(); ++i) {
      const Item& item = scratch.items[i];
      if (scratch.layout_of_item[i] != layout) continue;
      scratch.grads.push_back({item.arrays[1], item.size, item.dtypes[1]});
    }
    const bool plain = layout == Layouts::plain;
    if (plain && scratch.grads.empty()) continue;
    double squares;
    {
      py::gil_scoped_release released;
      squares = sum_of_squares(scratch.grads, threads, scratch.partials);
    }
    py::object mesh = py::none(), placements = py::none();
    if (!plain) {
      mesh = scratch.layouts[layout].mesh;
      placements = scratch.layouts[layout].placements;
    }
    parts.append(py::make_tuple(mesh, placements, squares));
  }
  return optimizer.attr("_total_squares")(parts).cast<double>();
}

double any_grad_factor(Scratch& scratch, const py::object& optimizer, const TailOptions& tail,
                       int threads, double grad_scale) {
  if (!tail.clips) return 1 / grad_scale;
  if (!scratch.left_over.empty()) {
    optimizer.attr("_refuse_clipping")(
        "max_grad_norm: expected every parameter on fastopt's kernels, but one needs torch's "
        "step (" +
        scratch.left_over[0].cast<py::tuple>()[2].cast<std::string>() +
        "); clip with torch.nn.utils.clip_grad_norm_ instead");
  }
  const double norm = std::sqrt(total_squares(scratch, optimizer, threads)) / grad_scale;
  if (tail.error_if_nonfinite && !std::isfinite(norm)) {
    throw std::runtime_error("The total norm of the gradients is non-finite (" +
                             std::to_string(norm) +
                             "), so they cannot be clipped; "
                             "error_if_nonfinite=False would let the step go on");
  }
  optimizer.attr("_grad_norm") = norm;
  const double clip = tail.max_grad_norm / (norm + 1e-6);  // as torch.nn.utils.clip_grad_norm_
  return (clip > 1 ? 1 : clip) / grad_scale;
}

}  // namespace

double grad_factor(Scratch& scratch, const py::object& optimizer, const TailOptions& tail,
                   int threads, double grad_scale) {
  const double factor = any_grad_factor(scratch, optimizer, tail, threads, grad_scale);
  // Without the payload of the gradient that it comes from: simd/pair.h asks for that.
  return std::isnan(factor) ? std::numeric_limits<double>::quiet_NaN() : factor;
}

}  // namespace fastopt
