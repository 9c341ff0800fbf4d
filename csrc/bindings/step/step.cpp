#include "bindings/step/step.h"

#include <memory>
#include <optional>
#include <unordered_map>

#include "bindings/step/ahead.h"
#include "bindings/step/clip.h"
#include "bindings/step/cuda_work.h"
#include "bindings/step/place.h"
#include "bindings/step/reading.h"
#include "bindings/step/scaling.h"
#include "bindings/step/stepped.h"
#include "bindings/step/work.h"
#include "bindings/watchers.h"
#include "cpu/parallel.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Runs what only inserts or tells, again where a signal interrupts it: a step that has begun to
// write is finished. The first error is raised at the end.
class Insisting {
 public:
  template <class Action>
  void run(Action action) {
    constexpr int patience = 100;  // signals may come faster than they are handled
    for (int i = 0; i < patience; ++i) {
      try {
        return action();
      } catch (py::error_already_set& error) {
        if (!first_) first_.emplace(error);
      }
    }
  }

  void raise() {
    if (first_) throw py::error_already_set(*first_);
  }

 private:
  std::optional<py::error_already_set> first_;
};

class Step {
 public:
  // `norm`: of all gradients, where this is a part of a step that clips by it.
  Step(Spec& spec, const Stepped& optimizer, Kind kind, std::optional<double> norm = std::nullopt)
      : spec_(spec), lent_(spec), work_(*lent_), optimizer_(optimizer), norm_(norm) {
    work_.memory.begin(optimizer, kind);
  }

  // Options first, then parameters, gradients and entries, then memory: from then on no Python code
  // runs in a light step.
  void read() {
    const Memory& memory = work_.memory;
    const Watchers watchers = torch_watchers();
    work_.memory.find_grads(!watchers.of_functions);
    work_.plans.read(optimizer_, watchers.of_operations, !memory.is_light());
    if (work_.plans.tail().clips && !norm_ && !memory.dry() && !memory.holds()) {
      if (!optimizer_.norm_is_local()) memory.will_release();
    }
    work_.candidates.collect(work_.plans, memory);
    for (const Plan& plan : work_.plans) read_params(plan);
    if (memory.holds()) spec_.on_devices = !work_.cuda.params.empty();
    if (memory.dry()) return;
    if (work_.copy_memory.any()) work_.copy_memory.check_apart();
    if (!work_.rest.late.empty()) optimizer_.check_late_copies(list_of(work_.rest.late));
  }

  py::list left_over() { return list_of(work_.rest.left_over); }

  // Once the norm has been taken, nothing can fail but torch itself and launches.
  void write(int threads, const Scaling& scaling) {
    if (work_.places.captures.any()) scaling.check_captured();
    const bool kernels_skip = kernels_can_skip(scaling);
    if (!kernels_skip && scaling.found_inf()) return;
    const CudaNumber factor = grad_factor(work_, optimizer_, threads, scaling, norm_);
    work_.memory.check();
    Rest& rest = work_.rest;
    if (!rest.left_over.empty()) {
      if (rest.updated.empty()) optimizer_.warn_unfused(left_over());
      optimizer_.step_with_torch(left_over(), scaling.scale());
    }
    const float* found_inf =
        kernels_skip ? static_cast<const float*>(scaling.found_at().number.at) : nullptr;
    step_on_devices(work_.cuda, factor, found_inf, rest.left_over.size());
    Insisting insisting;
    for (const auto& fresh : rest.new_states) insisting.run([&] { insert(fresh); });
    store(rest.counts);
    work_.cpu.shared.set_grad_factor(factor.value);
    {
      std::optional<py::gil_scoped_release> released;
      if (work_.memory.holds()) released.emplace();
      run(work_.cpu.items, threads);
    }
    tell(insisting);
    if (!rest.late.empty()) {
      const py::object found = kernels_skip ? scaling.found_inf_object() : py::none();
      insisting.run([&] { optimizer_.write_late_copies(list_of(rest.late), found); });
    }
    insisting.raise();
  }

 private:
  static constexpr std::size_t near = 8;  // what is written soon, and fetched

  // Whether the kernels of the one device at work can look whether the step is to be skipped: where
  // nothing else is done meanwhile, and nothing depends on how many steps there were.
  bool kernels_can_skip(const Scaling& scaling) {
    const CudaWork& cuda = work_.cuda;
    const DeviceNumber& found = scaling.found_at();
    return found.number.type == CudaNumber::Type::float32 && found.device == cuda.sole_device() &&
           work_.cpu.items.empty() && work_.rest.left_over.empty() && work_.rest.counts.empty() &&
           !cuda.has_first_step;
  }

  void read_params(const Plan& plan) {
    std::optional<Ahead> ahead;
    if (work_.memory.finds_grads() && Ahead::is_worth(plan.end - plan.begin)) {
      ahead.emplace(work_.candidates, plan.begin, plan.end);
    }
    for (std::size_t i = plan.begin; i < plan.end; ++i) {
      if (ahead) ahead->at(i);
      const Candidate& candidate = work_.candidates[i];
      if (!candidate.has_grad) {
        note_layout(work_.memory, work_.places.layouts, candidate.param);
      } else if (plan.to_torch != nullptr) {
        work_.leave(plan, candidate, plan.to_torch);
      } else {
        try {
          work_.add(plan, candidate.param,
                    fastopt::read(work_.memory, work_.places, spec_.kept, plan, candidate));
        } catch (const Unfit& unfit) {
          work_.leave(plan, candidate, unfit.reason);
        }
      }
    }
  }

  static void store(const std::vector<Count>& counts) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (i + near < counts.size()) __builtin_prefetch(counts[i + near].counter, 1);
      counts[i].store();
    }
  }

  void insert(const Rest::NewState& fresh) {
    py::object states = optimizer_.state();
    if (!states.contains(fresh.param)) {
      states[fresh.param] = fresh.entries;
      return;
    }
    py::object entries = states[fresh.param];
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(fresh.entries)) {
      if (!value.is_none()) {
        entries[name] = value;
      } else if (entries.contains(name) && PyObject_DelItem(entries.ptr(), name.ptr()) != 0) {
        throw py::error_already_set();
      }
    }
  }

  // What is done after the kernels.
  void tell(Insisting& insisting) {
    for (const CopyBack& copy : work_.rest.copies) {
      insisting.run([&] { optimizer_.copy_back(copy.to, copy.from); });
    }
    const std::vector<uint32_t*>& versions = work_.rest.versions;
    for (std::size_t i = 0; i < versions.size(); ++i) {
      if (i + near < versions.size()) __builtin_prefetch(versions[i + near], 1);
      AutogradLayout::bump(versions[i]);
    }
    std::vector<PyObject*> others;
    for (PyObject* tensor : work_.rest.updated) {
      uint32_t* const version = TorchReader::get().version_of(tensor);
      if (version != nullptr) {
        AutogradLayout::bump(version);
      } else {
        others.push_back(tensor);
      }
    }
    if (!others.empty()) insisting.run([&] { optimizer_.bump_versions(list_of(others)); });
    insisting.run([&] {
      if (work_.norm) optimizer_.set_grad_norm(*work_.norm);
    });
  }

  template <class Objects>
  static py::list list_of(const Objects& objects) {
    py::list list(objects.size());
    for (std::size_t i = 0; i < objects.size(); ++i) list[i] = py::handle(objects[i]);
    return list;
  }

  Spec& spec_;
  Lent lent_;
  Work& work_;
  const Stepped& optimizer_;
  const std::optional<double> norm_;
};

Spec& spec_of(const std::string& rule) {
  static auto& specs = *new std::unordered_map<std::string, std::unique_ptr<Spec>>();
  std::unique_ptr<Spec>& spec = specs[rule];
  if (!spec) spec = std::make_unique<Spec>(rule);
  return *spec;
}

}  // namespace

void step(const std::string& rule, const py::object& optimizer, int threads,
          const py::object& grad_scale, const py::object& found_inf, std::optional<double> norm) {
  const Stepped stepped(optimizer);
  const Scaling scaling(grad_scale, found_inf);
  const bool waits = scaling.found_at().number.on_device();  // for a device
  if (!waits && scaling.found_inf()) return;
  Spec& spec = spec_of(rule);
  Kind kind = scaling.on_device() || spec.on_devices ? Memory::releasing_kind() : Kind::light;
  while (true) {
    try {
      Step step(spec, stepped, kind, norm);
      step.read();
      return step.write(threads, scaling);
    } catch (const MustHold& must) {  // before anything was written
      kind = must.kind;
    }
  }
}

void call_with_grads(const py::list& params, const py::list& grads, const py::object& function) {
  py::list own;
  for (py::handle param : params) own.append(param.attr("grad"));
  const auto set = [&](const py::list& to) {  // descriptors in C, which no signal interrupts
    for (std::size_t i = 0; i < params.size(); ++i) params[i].attr("grad") = to[i];
  };
  try {
    set(grads);
    function();
  } catch (...) {
    set(own);
    throw;
  }
  set(own);
}

py::list left_over(const std::string& rule, const py::object& optimizer) {
  const Stepped stepped(optimizer);
  Step step(spec_of(rule), stepped, Kind::dry);
  step.read();
  return step.left_over();
}

}  // namespace fastopt
