#include "bindings/step/place.h"

#include <stdexcept>
#include <string>

#include "bindings/cuda.h"

namespace fastopt {

Place::Place(Memory& memory, Places& places, const Plan& plan, PyObject* param)
    : local(param), memory_(memory) {
  if (!TorchReader::get().is_plain(param) && is_dtensor(param)) find_local(places.layouts, param);
  if (!memory_.look(local, &view)) throw Unfit{memory_.unreadable(local)};
  find_device(places.captures, plan);
  if (dtype_of(view) < 0) throw Unfit{"dtype " + dtype_name(view)};
  like = local;
  const bool has_gaps = !is_contiguous(view) && !is_dense(view);
  if (view.negated || !is_aligned(view) || has_gaps) {
    like = dense_copy(local, py::none(), true);
    memory_.look(like, &view);
  }
}

void Place::find_local(Layouts& layouts, PyObject* param) {
  memory_.must_hold();
  distribution = fastopt::distribution(param);
  layout = layouts.index_of(distribution);
  if (layouts[layout].partial) {
    throw Unfit{"a sum over processes (" + distribution_text(distribution) + ")"};
  }
  local = memory_.hold(local_part(param));
}

// Finds the device whose kernels take the parameter.
void Place::find_device(Captures& captures, const Plan& plan) {
  CudaLibrary& cuda = CudaLibrary::get();
  const bool is_cuda = view.device.device_type == kDLCUDA;
  if (is_cuda && !cuda.has_tried(view.device.device_id)) memory_.must_hold();
  device = cuda.device_of(view);
  if (device != cpu_device) memory_.will_release();
  if (device == no_device) {
    throw Unfit{is_cuda ? "on " + device_name(view) + ": " + cuda.trouble() : "not on the CPU"};
  }
  if (device == cpu_device && plan.capturable) throw Unfit{"capturable=True on the CPU"};
  if (plan.lr.number.on_device() && plan.lr.device != device) {
    throw Unfit{"not on the device of its learning rate"};
  }
  captured = device != cpu_device && !memory_.dry() && captures.on(device);
  if (captured && plan.lr_on_host) {
    throw std::runtime_error(
        "lr: expected a number, or under capturable=True a tensor on the parameters' device, while "
        "a CUDA graph captures the step; got a tensor on the CPU, whose later values no replay "
        "would see");
  }
}

PyObject* Place::local_like_param(PyObject* tensor, const char* name) {
  const bool is_cut = !TorchReader::get().is_plain(tensor) && is_dtensor(tensor);
  if (is_cut) memory_.must_hold();
  if (!is_cut && !distribution) return tensor;
  const std::string what = name;
  if (!is_cut) throw Unfit{what + " is no DTensor, but its parameter is one"};
  if (!distribution) throw Unfit{what + " is a DTensor, but its parameter is none"};
  const py::object own = fastopt::distribution(tensor);
  if (!same_distribution(own, distribution)) {
    throw Unfit{what + " is a DTensor of " + distribution_text(own) + ", its parameter one of " +
                distribution_text(distribution)};
  }
  return memory_.hold(local_part(tensor));
}

bool Place::is_like_param(const View& its) const {
  return CudaLibrary::get().device_of(its) == device && same_shape(its, view) && is_aligned(its) &&
         !its.negated && same_layout(its, view);
}

View Place::laid_out(PyObject* whole, const char* name, bool written) {
  View its;
  PyObject* tensor = local_like_param(whole, name);
  if (!memory_.look(tensor, &its)) {
    throw Unfit{std::string(name) + ": " + memory_.unreadable(tensor)};
  }
  if (is_like_param(its)) return its;
  if (CudaLibrary::get().device_of(its) != device) {
    throw Unfit{std::string(name) +
                (device == cpu_device ? " not on the CPU" : " not on its parameter's device")};
  }
  if (!same_shape(its, view)) {
    throw Unfit{std::string(name) + " of shape " + shape_text(its) + " for a parameter of " +
                shape_text(view)};
  }
  memory_.look(dense_copy(tensor, like, written), &its);
  return its;
}

// To be copied back if it is `written`.
PyObject* Place::dense_copy(PyObject* tensor, py::handle like, bool written) {
  if (memory_.dry()) return tensor;
  memory_.must_hold();
  PyObject* copy = memory_.hold(memory_.optimizer().dense_copy(tensor, like, written));
  if (written) {
    copies.push_back(
        {py::reinterpret_borrow<py::object>(tensor), py::reinterpret_borrow<py::object>(copy)});
  }
  return copy;
}

void note_layout(const Memory& memory, Layouts& layouts, PyObject* param) {
  if (TorchReader::get().is_plain(param) || !is_dtensor(param)) return;
  memory.must_hold();
  layouts.index_of(distribution(param));
}

}  // namespace fastopt
