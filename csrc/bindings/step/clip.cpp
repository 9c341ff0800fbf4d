#include "bindings/step/clip.h"

#include <cmath>
#include <limits>
#include <optional>

#include "bindings/step/cuda_work.h"
#include "bindings/step/dtensor.h"
#include "cpu/norm.h"
#include "numeric/clip.h"

namespace fastopt {
namespace {

constexpr double no_limit = std::numeric_limits<double>::infinity();

// The sum of squares of the gradients in this process that are cut up so, if there are any: what
// the CPU has, then each device's.
std::optional<double> own_squares(Work& work, int threads, int layout) {
  std::optional<double> total;
  const std::vector<Values>& grads = work.cpu.grads(layout);
  if (!grads.empty()) {
    std::optional<py::gil_scoped_release> released;
    if (work.memory.holds()) released.emplace();
    total = sum_of_squares(grads, threads, work.cpu.partials);
  }
  for (const int device : work.cuda.devices()) {
    const std::optional<Doubles> squares = squares_on(work.cuda, device, layout);
    if (!squares) continue;
    const double own = squares->tensor[py::int_(0)].attr("item")().cast<double>();
    total = total ? *total + own : own;
  }
  return total;
}

// The squared norm of all gradients, over all processes that hold a part of them. This process
// sums up its own elements, those that are cut up alike together; Python knows the rest.
double total_squares(Work& work, const Stepped& optimizer, int threads) {
  py::list parts;
  for (int layout = Layouts::plain; layout < work.places.layouts.size(); ++layout) {
    const bool plain = layout == Layouts::plain;
    const std::optional<double> squares = own_squares(work, threads, layout);
    if (plain && !squares) continue;
    py::object mesh = py::none(), placements = py::none();
    if (!plain) {
      mesh = work.places.layouts[layout].mesh;
      placements = work.places.layouts[layout].placements;
    }
    parts.append(py::make_tuple(mesh, placements, squares.value_or(0)));
  }
  return optimizer.total_squares(parts);
}

double factor_on_host(Work& work, const Stepped& optimizer, const TailOptions& tail, int threads,
                      double grad_scale, const std::optional<double>& given) {
  if (!tail.clips) return host::Clip(0, no_limit, grad_scale).factor;
  if (!work.rest.left_over.empty()) {
    throw py::value_error(
        "max_grad_norm: expected every parameter on fastopt's kernels, but one needs torch's "
        "step (" +
        work.rest.left_over[0].cast<py::tuple>()[2].cast<std::string>() +
        "); clip with torch.nn.utils.clip_grad_norm_ instead");
  }
  // A light step has asked whether this process has all that the norm is of.
  const auto squares = [&] {
    return work.memory.holds() ? total_squares(work, optimizer, threads)
                               : own_squares(work, threads, Layouts::plain).value_or(0);
  };
  const double norm = given ? *given : host::Clip(squares(), no_limit, grad_scale).norm;
  if (tail.error_if_nonfinite && !std::isfinite(norm)) {
    throw std::runtime_error("The total norm of the gradients is non-finite (" +
                             std::to_string(norm) +
                             "), so they cannot be clipped; "
                             "error_if_nonfinite=False would let the step go on");
  }
  work.norm = norm;
  return host::clip_factor(norm, tail.max_grad_norm, grad_scale);
}

// Whether `device` has, or is to have, all that the factor is made of.
bool stays_on(int device, const Work& work, const Stepped& optimizer, const TailOptions& tail,
              const Scaling& scaling) {
  if (device < 0 || work.cuda.params.empty()) return false;
  if (!work.cpu.items.empty() || !work.rest.left_over.empty()) return false;
  if (scaling.has_scale() && scaling.scale_at().device != device) return false;
  if (!tail.clips) return scaling.has_scale();
  for (const CudaWork::Param& param : work.cuda.params) {
    if (param.layout != Layouts::plain) return false;
  }
  return !tail.error_if_nonfinite && optimizer.norm_is_local();
}

CudaNumber factor_on_device(int device, Work& work, const Stepped& optimizer,
                            const TailOptions& tail, const Scaling& scaling) {
  CudaClip clip = {nullptr, no_limit, CudaNumber::of(1), nullptr};
  if (scaling.has_scale()) clip.grad_scale = scaling.scale_at().number;
  const Doubles result(device, 2);
  clip.result = reinterpret_cast<CudaClip::Result*>(result.data);
  if (tail.clips) {
    const std::optional<Doubles> squares = squares_on(work.cuda, device, Layouts::plain);
    clip.squares = squares->data;
    clip.max_norm = tail.max_grad_norm;
    CudaLibrary::get().clip(clip, device);
    optimizer.set_grad_norm(result.tensor[py::int_(0)]);
  } else {
    CudaLibrary::get().clip(clip, device);
  }
  work.memory.hold(result.tensor);
  return CudaNumber::lying(&clip.result->factor, CudaNumber::Type::float64);
}

}  // namespace

CudaNumber grad_factor(Work& work, const Stepped& optimizer, int threads, const Scaling& scaling,
                       const std::optional<double>& norm) {
  const TailOptions tail = work.plans.tail();
  if (tail.error_if_nonfinite && work.cuda.capturable) {
    throw py::value_error(
        "error_if_nonfinite=True: expected capturable=False with it, since whoever raises waits "
        "for the device");
  }
  const int device = work.cuda.sole_device();
  if (!norm && stays_on(device, work, optimizer, tail, scaling)) {
    return factor_on_device(device, work, optimizer, tail, scaling);
  }
  return CudaNumber::of(factor_on_host(work, optimizer, tail, threads, scaling.scale(), norm));
}

}  // namespace fastopt
