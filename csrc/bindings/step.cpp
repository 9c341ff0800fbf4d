#include "bindings/step.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

#include "bindings/clip.h"
#include "bindings/cuda_step.h"
#include "bindings/group.h"
#include "bindings/param.h"
#include "bindings/rules.h"
#include "bindings/scaling.h"
#include "bindings/scratch.h"
#include "bindings/tensor.h"
#include "bindings/watchers.h"
#include "cpu/parallel.h"

namespace py = pybind11;

namespace fastopt {
namespace {

class Walk {
 public:
  // A dry walk makes no state and copies nothing; it counts a parameter without gradient as if it
  // had one.
  Walk(Spec& spec, const py::object& optimizer, bool dry = false)
      : dry_(dry),
        scratch_(spec),
        optimizer_(optimizer),
        reader_(spec, *scratch_.get(), optimizer, dry) {}

  void read_groups() {
    py::list groups = optimizer_.attr("param_groups");
    for (py::handle group : groups) read_group(group.ptr());
    if (ever_out_of_order_ && has_twice(0)) {
      throw py::value_error("some parameters appear in more than one parameter group");
    }
  }

  py::list left_over() { return list_of(scratch_->left_over); }

  // Once the norm has been taken, nothing can fail but torch itself.
  void write(int threads, const Scaling& scaling) {
    const bool kernels_skip = kernels_can_skip(scaling);
    if (!kernels_skip && scaling.found_inf()) return;
    const CudaNumber factor = grad_factor(*scratch_.get(), optimizer_, tail_, threads, scaling);
    if (!scratch_->left_over.empty()) {
      if (scratch_->updated.empty()) optimizer_.attr("_warn_unfused")(left_over());
      optimizer_.attr("_step_with_torch")(left_over(), scaling.scale());
    }
    for (auto& fresh : scratch_->new_states) commit(fresh);
    for (const auto& count : scratch_->counts) count.store();
    for (BoundRule& rule : scratch_->rules) rule.tail.grad_factor = factor.value;
    for (std::size_t i = 0; i < scratch_->items.size(); ++i) {
      scratch_->items[i].rule = &scratch_->rules[scratch_->rule_of_item[i]];
    }
    const float* found_inf =
        kernels_skip ? static_cast<const float*>(scaling.found_at().number.at) : nullptr;
    step_on_devices(scratch_->cuda, factor, found_inf);
    {
      py::gil_scoped_release released;
      run(scratch_->items, threads);
    }
    for (const auto& copy : scratch_->copies) optimizer_.attr("_copy_back")(copy.to, copy.from);
    if (!scratch_->updated.empty()) {
      optimizer_.attr("_bump_versions")(list_of(scratch_->updated));
    }
  }

 private:
  // Whether the kernels of the one device at work can look whether the step is to be skipped: where
  // nothing else is done meanwhile, and nothing depends on how many steps there were.
  bool kernels_can_skip(const Scaling& scaling) {
    const CudaWork& work = scratch_->cuda;
    const DeviceNumber& found = scaling.found_at();
    return found.number.type == CudaNumber::Type::float32 && found.device == work.sole_device() &&
           scratch_->items.empty() && scratch_->left_over.empty() && scratch_->counts.empty() &&
           !work.has_first_step;
  }

  void read_tail(PyObject* group) {
    const TailOptions tail = TailOptions::of(group);
    if (groups_read_++ > 0 && !tail.clips_alike(tail_)) {
      throw py::value_error(
          "max_grad_norm: expected the same in every group, since the norm is over all of them");
    }
    tail_ = tail;
  }

  void read_group(PyObject* group) {
    const Names& names = Names::get();
    const char* whole_group = is_set(group, names.differentiable) ? "differentiable=True"
                              : watched_ ? "a mode or a trace of torch is to see its operations"
                                         : nullptr;
    const DeviceNumber lr = device_number(lookup(group, names.lr), is_set(group, names.capturable));
    if (whole_group == nullptr) {
      scratch_->rule->read_options(group, Checks::none, lr.number.on_device());
    }
    read_tail(group);
    reader_.begin_group(group, tail_, lr);
    PyObject* listed = lookup(group, names.params);
    if (listed == nullptr) throw py::key_error("params");
    py::object params = py::reinterpret_steal<py::object>(
        PySequence_Fast(listed, "params: expected a list of parameters"));
    if (!params) throw py::error_already_set();
    const Scratch::Mark before = scratch_->mark();
    if (whole_group == nullptr) read_params(group, params.ptr());
    const bool out_of_order = reader_.was_out_of_order();
    if (out_of_order && has_twice(before.updated)) {
      scratch_->roll_back(before);
      whole_group = "the same parameter twice in a group";
    }
    if (whole_group != nullptr) leave_all(group, params.ptr(), whole_group);
    ever_out_of_order_ |= out_of_order;
  }

  void read_params(PyObject* group, PyObject* params) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      PyObject* param = PySequence_Fast_GET_ITEM(params, i);
      py::object grad = torch_.grad(param);
      if (grad.is_none()) {
        if (tail_.clips) reader_.note_layout(param);
        if (!dry_) continue;
        grad = py::reinterpret_borrow<py::object>(param);
      }
      const Scratch::Mark mark = scratch_->mark();
      try {
        reader_.read(param, std::move(grad));
      } catch (const Unfit& unfit) {
        scratch_->roll_back(mark);
        leave(group, param, unfit.reason);
      }
    }
  }

  void leave_all(PyObject* group, PyObject* params, const char* reason) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      PyObject* param = PySequence_Fast_GET_ITEM(params, i);
      if (dry_ || !torch_.grad(param).is_none()) leave(group, param, reason);
    }
  }

  // Whether a parameter was read twice since `from`.
  bool has_twice(std::size_t from) {
    sorted_.clear();
    for (std::size_t i = from; i < scratch_->updated.size(); ++i) {
      sorted_.push_back(scratch_->updated[i].ptr());
    }
    std::sort(sorted_.begin(), sorted_.end());
    return std::adjacent_find(sorted_.begin(), sorted_.end()) != sorted_.end();
  }

  void leave(PyObject* group, PyObject* param, const std::string& reason) {
    scratch_->left_over.push_back(py::make_tuple(py::handle(group), py::handle(param), reason));
  }

  void commit(Scratch::NewState& fresh) {
    py::object states = optimizer_.attr("state");
    PyObject* entries = lookup(states.ptr(), fresh.param.ptr());
    if (entries == nullptr) {
      states[fresh.param] = fresh.entries;
    } else if (PyDict_Update(entries, fresh.entries.ptr()) != 0) {
      throw py::error_already_set();
    }
  }

  template <class Objects>
  static py::list list_of(const Objects& objects) {
    py::list list(objects.size());
    for (std::size_t i = 0; i < objects.size(); ++i) list[i] = py::handle(objects[i]);
    return list;
  }

  const bool dry_;
  const bool watched_ = torch_is_watched();
  Lent scratch_;
  const py::object& optimizer_;
  ParamReader reader_;
  const TorchReader& torch_ = TorchReader::get();
  TailOptions tail_;  // of the group that is being read; what clips is the same in all
  int groups_read_ = 0;
  bool ever_out_of_order_ = false;
  std::vector<PyObject*> sorted_;
};

Spec& spec_of(const std::string& rule) {
  static auto& specs = *new std::unordered_map<std::string, std::unique_ptr<Spec>>();
  std::unique_ptr<Spec>& spec = specs[rule];
  if (!spec) spec = std::make_unique<Spec>(rule);
  return *spec;
}

}  // namespace

void step(const std::string& rule, const py::object& optimizer, int threads,
          const py::object& grad_scale, const py::object& found_inf) {
  const Scaling scaling(grad_scale, found_inf);
  const bool waits = scaling.found_at().number.on_device();  // for a device
  if (!waits && scaling.found_inf()) return;
  Walk walk(spec_of(rule), optimizer);
  walk.read_groups();
  walk.write(threads, scaling);
}

py::list left_over(const std::string& rule, const py::object& optimizer) {
  Walk walk(spec_of(rule), optimizer, true);
  walk.read_groups();
  return walk.left_over();
}

}  // namespace fastopt
