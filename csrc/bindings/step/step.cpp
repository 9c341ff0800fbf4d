#include "bindings/step/step.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "bindings/rules.h"
#include "bindings/step/clip.h"
#include "bindings/step/cuda_work.h"
#include "bindings/step/plan.h"
#include "bindings/step/reading.h"
#include "bindings/step/scaling.h"
#include "bindings/step/stepped.h"
#include "bindings/step/work.h"
#include "bindings/tensor.h"
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

enum class Kind {
  light,  // holds nothing, and throws MustHold where something would have to be held
  whole,
  dry,  // makes no state, copies nothing, and counts a parameter without gradient as if it had one
};

class Walk {
 public:
  Walk(Spec& spec, const Stepped& optimizer, Kind kind)
      : dry_(kind == Kind::dry),
        scratch_(spec),
        optimizer_(optimizer),
        reader_(spec, *scratch_.get(), optimizer, dry_) {
    scratch_->holds = kind == Kind::whole;
  }

  // Options first, then parameters, gradients and entries, then memory: from then on no Python code
  // runs in a light walk.
  void read_groups() {
    const py::tuple groups(optimizer_.param_groups());  // a copy
    defaults_ = optimizer_.defaults();
    for (std::size_t i = 0; i < groups.size(); ++i) read_options(groups[i], i);
    if (tail_.clips && !dry_ && !scratch_->holds) {
      if (!optimizer_.norm_is_local()) throw MustHold{};
    }
    for (Plan& plan : scratch_->plans) collect(plan);
    if (ever_out_of_order_) find_twice();
    for (const Plan& plan : scratch_->plans) read_params(plan);
  }

  py::list left_over() { return list_of(scratch_->left_over); }

  // Once the norm has been taken, nothing can fail but torch itself and launches.
  void write(int threads, const Scaling& scaling) {
    if (reader_.met_a_graph()) scaling.check_captured();
    const bool kernels_skip = kernels_can_skip(scaling);
    if (!kernels_skip && scaling.found_inf()) return;
    const CudaNumber factor = grad_factor(*scratch_.get(), optimizer_, tail_, threads, scaling);
    check_memory();
    if (!scratch_->left_over.empty()) {
      if (scratch_->updated.empty()) optimizer_.warn_unfused(left_over());
      optimizer_.step_with_torch(left_over(), scaling.scale());
    }
    const float* found_inf =
        kernels_skip ? static_cast<const float*>(scaling.found_at().number.at) : nullptr;
    step_on_devices(scratch_->cuda, factor, found_inf, scratch_->left_over.size());
    Insisting insisting;
    for (auto& fresh : scratch_->new_states) insisting.run([&] { commit(fresh); });
    for (const auto& count : scratch_->counts) count.store();
    for (BoundRule& rule : scratch_->rules) rule.tail.grad_factor = factor.value;
    for (std::size_t i = 0; i < scratch_->items.size(); ++i) {
      scratch_->items[i].rule = &scratch_->rules[scratch_->rule_of_item[i]];
    }
    if (scratch_->holds) {
      py::gil_scoped_release released;
      run(scratch_->items, threads);
    } else {
      run(scratch_->items, threads);
    }
    for (const auto& copy : scratch_->copies) {
      insisting.run([&] { optimizer_.copy_back(copy.to, copy.from); });
    }
    insisting.run([&] {
      if (!scratch_->updated.empty()) {
        optimizer_.bump_versions(list_of(scratch_->updated));
      }
    });
    insisting.run([&] {
      if (scratch_->norm) optimizer_.set_grad_norm(*scratch_->norm);
    });
    insisting.raise();
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

  void read_options(py::handle dict, std::size_t index) {
    const py::object plain = plain_dict(dict, optimizer_);
    complete(plain);
    PyObject* const group = plain.ptr();
    const Names& names = Names::get();
    Plan plan;
    plan.group = plain;
    plan.named = py::reinterpret_borrow<py::object>(dict);
    plan.rule = &scratch_->rule_of_group(index);
    plan.capturable = is_set(group, names.capturable);
    plan.counts_on_device = plan.capturable || is_set(group, names.fused);
    plan.has_master = is_set(group, names.master_weights);
    plan.rounds_at_random = is_set(group, names.stochastic_rounding);
    plan.wanted = state_dtype(group);
    if (plan.wanted == StateDtype::unknown || (plan.has_master && plan.rounds_at_random)) {
      optimizer_.check_storage(plan.group);
      plan.wanted = state_dtype(group);
    }
    PyObject* const lr = lookup(group, names.lr);
    plan.lr = device_number(lr, plan.capturable);
    plan.lr_on_host = lr != nullptr && torch_.is_plain(lr) && !plan.lr.number.on_device();
    if (is_set(group, names.differentiable)) {
      plan.to_torch = "differentiable=True";
    } else if (watched_) {
      plan.to_torch = "a mode or a trace of torch is to see its operations";
    } else {
      plan.rule->read_options(group, Checks::none, plan.lr.number.on_device());
    }
    read_tail(group);
    plan.tail = tail_;
    PyObject* listed = lookup(group, names.params);
    if (listed == nullptr) throw py::key_error("params");
    plan.params = py::reinterpret_steal<py::object>(PySequence_Tuple(listed));
    if (!plan.params) throw py::error_already_set();
    scratch_->plans.push_back(std::move(plan));
  }

  // Options that a group lacks: torch's step would raise KeyError, or they are ours to fill in.
  void complete(py::handle group) {
    PyObject *key, *value, *own, *ignored;
    Py_ssize_t position = 0, at = 0;
    PyDict_Next(group.ptr(), &at, &own, &ignored);  // mostly "params", then the rest in this order
    while (PyDict_Next(defaults_.ptr(), &position, &key, &value)) {
      Py_ssize_t next = at;
      if (PyDict_Next(group.ptr(), &next, &own, &ignored) && own == key) {
        at = next;
        continue;
      }
      const int has = PyDict_Contains(group.ptr(), key);
      if (has < 0) throw py::error_already_set();
      if (has == 0) optimizer_.missing_option(group, key);
    }
  }

  void collect(Plan& plan) {
    reader_.begin_group(plan);
    plan.begin = scratch_->candidates.size();
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(plan.params.ptr()); ++i) {
      PyObject* param = PyTuple_GET_ITEM(plan.params.ptr(), i);
      py::object grad = torch_.grad(param);
      if (grad.is_none()) {
        if (!dry_ && !plan.tail.clips) continue;
        grad = dry_ ? py::reinterpret_borrow<py::object>(param) : py::object();
      }
      py::object entries = grad ? reader_.find_entries(param) : py::object();
      scratch_->candidates.push_back({param, std::move(grad), std::move(entries)});
    }
    plan.end = scratch_->candidates.size();
    ever_out_of_order_ |= reader_.was_out_of_order();
  }

  void read_params(const Plan& plan) {
    reader_.begin_group(plan);
    for (std::size_t i = plan.begin; i < plan.end; ++i) {
      const Candidate& candidate = scratch_->candidates[i];
      if (!candidate.grad) {
        reader_.note_layout(candidate.param);
        continue;
      }
      if (plan.to_torch != nullptr) {
        leave(plan, candidate, plan.to_torch);
        continue;
      }
      const Scratch::Mark mark = scratch_->mark();
      try {
        reader_.read(candidate);
      } catch (const Unfit& unfit) {
        scratch_->roll_back(mark);
        leave(plan, candidate, unfit.reason);
      }
    }
  }

  // That what is held has not been freed all the same. A tensor may have got another storage; then
  // the step works on the one that it had.
  void check_memory() {
    for (const Scratch::Seen& seen : scratch_->seen) {
      View view;
      if (torch_.read(seen.tensor, &view) && data_of(view) == seen.data) continue;
      const py::handle storage(seen.storage);
      const uint64_t offset =
          reinterpret_cast<uint64_t>(seen.data) - storage.attr("data_ptr")().cast<uint64_t>();
      if (offset < storage.attr("nbytes")().cast<uint64_t>()) continue;
      throw std::runtime_error(
          "the memory of a parameter, a gradient or a state was freed while the step read it; "
          "nothing has been written");
    }
  }

  // Asked for all groups at once, since sorting 200 addresses takes 2 us.
  void find_twice() {
    if (!has_twice(0, scratch_->candidates.size())) return;
    for (Plan& plan : scratch_->plans) {
      if (plan.to_torch == nullptr && has_twice(plan.begin, plan.end)) {
        plan.to_torch = "the same parameter twice in a group";
      }
    }
    if (has_twice(0, scratch_->candidates.size())) {
      throw py::value_error("some parameters appear in more than one parameter group");
    }
  }

  // Whether a parameter comes twice among these candidates, of those that the kernels may take.
  bool has_twice(std::size_t begin, std::size_t end) {
    sorted_.clear();
    for (const Plan& plan : scratch_->plans) {
      if (plan.to_torch != nullptr) continue;
      for (std::size_t i = std::max(begin, plan.begin); i < std::min(end, plan.end); ++i) {
        if (scratch_->candidates[i].grad) sorted_.push_back(scratch_->candidates[i].param);
      }
    }
    std::sort(sorted_.begin(), sorted_.end());
    return std::adjacent_find(sorted_.begin(), sorted_.end()) != sorted_.end();
  }

  void leave(const Plan& plan, const Candidate& candidate, const std::string& reason) {
    reader_.must_hold();
    scratch_->left_over.push_back(py::make_tuple(plan.named, py::handle(candidate.param), reason));
  }

  void commit(Scratch::NewState& fresh) {
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

  template <class Objects>
  static py::list list_of(const Objects& objects) {
    py::list list(objects.size());
    for (std::size_t i = 0; i < objects.size(); ++i) list[i] = py::handle(objects[i]);
    return list;
  }

  const bool dry_;
  const bool watched_ = torch_is_watched();
  Lent scratch_;
  const Stepped& optimizer_;
  py::object defaults_;
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
  const Stepped stepped(optimizer);
  const Scaling scaling(grad_scale, found_inf);
  const bool waits = scaling.found_at().number.on_device();  // for a device
  if (!waits && scaling.found_inf()) return;
  if (!scaling.on_device()) {
    try {
      Walk walk(spec_of(rule), stepped, Kind::light);
      walk.read_groups();
      return walk.write(threads, scaling);
    } catch (const MustHold&) {  // before anything was written
    }
  }
  Walk walk(spec_of(rule), stepped, Kind::whole);
  walk.read_groups();
  walk.write(threads, scaling);
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
  Walk walk(spec_of(rule), stepped, Kind::dry);
  walk.read_groups();
  return walk.left_over();
}

}  // namespace fastopt
