#include "bindings/step/plan.h"

#include <utility>

#include "bindings/checks.h"
#include "bindings/step/copies.h"
#include "bindings/tensor.h"

namespace fastopt {
namespace {

// The Python names of a group's options, made once.
struct Names {
  PyObject* params = PyUnicode_InternFromString("params");
  PyObject* lr = PyUnicode_InternFromString("lr");
  PyObject* capturable = PyUnicode_InternFromString("capturable");
  PyObject* fused = PyUnicode_InternFromString("fused");
  PyObject* differentiable = PyUnicode_InternFromString("differentiable");
  PyObject* max_grad_norm = PyUnicode_InternFromString("max_grad_norm");
  PyObject* error_if_nonfinite = PyUnicode_InternFromString("error_if_nonfinite");
  PyObject* ema_decay = PyUnicode_InternFromString("ema_decay");
  PyObject* ema_bias_correction = PyUnicode_InternFromString("ema_bias_correction");
  PyObject* master_weights = PyUnicode_InternFromString("master_weights");
  PyObject* stochastic_rounding = PyUnicode_InternFromString("stochastic_rounding");

  PyObject* state_dtype = PyUnicode_InternFromString("state_dtype");
  PyObject* bfloat16_name = PyUnicode_InternFromString("bfloat16");
  PyObject* float16_name = PyUnicode_InternFromString("float16");
  PyObject* float32_name = PyUnicode_InternFromString("float32");
  PyObject* int8_name = PyUnicode_InternFromString("int8");

  static const Names& get() {
    static const Names& names = *new Names();
    return names;
  }
};

// Whether a group's flag is there and true.
bool is_set(PyObject* group, PyObject* key) {
  PyObject* value = lookup(group, key);
  if (value == nullptr) return false;
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

StateDtype state_dtype(PyObject* group) {
  const Names& names = Names::get();
  PyObject* value = lookup(group, names.state_dtype);
  if (value == nullptr) return StateDtype::own;
  if (!PyUnicode_Check(value)) return StateDtype::unknown;
  const auto is = [value](PyObject* name) {
    return value == name || PyUnicode_Compare(value, name) == 0;
  };
  if (is(names.bfloat16_name)) return StateDtype::bfloat16;
  if (is(names.int8_name)) return StateDtype::int8;
  if (is(names.float32_name)) return StateDtype::float32;
  return is(names.float16_name) ? StateDtype::float16 : StateDtype::unknown;
}

// Options that a group lacks: torch's step would raise KeyError, or they are ours to fill in.
void complete(py::handle group, const Stepped& optimizer, py::handle defaults) {
  PyObject *key, *value, *own, *ignored;
  Py_ssize_t position = 0, at = 0;
  PyDict_Next(group.ptr(), &at, &own, &ignored);  // mostly "params", then the rest in this order
  while (PyDict_Next(defaults.ptr(), &position, &key, &value)) {
    Py_ssize_t next = at;
    if (PyDict_Next(group.ptr(), &next, &own, &ignored) && own == key) {
      at = next;
      continue;
    }
    const int has = PyDict_Contains(group.ptr(), key);
    if (has < 0) throw py::error_already_set();
    if (has == 0) optimizer.missing_option(group, key);
  }
}

unsigned used_states(const AnyRule& rule) {
  unsigned used = 0;
  for (int i = 0; i < rule.state_count(); ++i) used |= unsigned{rule.uses(i)} << i;
  return used;
}

}  // namespace

TailOptions TailOptions::of(PyObject* group) {
  const Names& names = Names::get();
  TailOptions tail;
  if (PyObject* norm = lookup(group, names.max_grad_norm)) {
    tail.clips = true;
    tail.max_grad_norm = number(norm, "max_grad_norm", "a number or None");
    tail.error_if_nonfinite = is_set(group, names.error_if_nonfinite);
  }
  if (PyObject* decay = lookup(group, names.ema_decay)) {
    tail.averages = true;
    tail.ema_decay = number(decay, "ema_decay", "a number or None");
    tail.bias_correction = is_set(group, names.ema_bias_correction);
  }
  return tail;
}

Plans::Plans(const std::string& rule)
    : rule_name_(rule), counts_itself_(!make_rule(rule)->counts_steps()) {}

void Plans::read(const Stepped& optimizer, bool watched, bool for_devices) {
  const py::tuple groups(optimizer.param_groups());  // a copy
  const py::object defaults = optimizer.defaults();
  for (const py::handle group : groups) {
    py::object plain = plain_dict(group, optimizer);
    complete(plain, optimizer, defaults);
    Plan plan = plan_of(std::move(plain), group, optimizer, watched, for_devices);
    if (!plans_.empty() && !plan.tail.clips_alike(plans_.back().tail)) {
      throw py::value_error(
          "max_grad_norm: expected the same in every group, since the norm is over all of them");
    }
    PyObject* listed = lookup(plan.group.ptr(), Names::get().params);
    if (listed == nullptr) throw py::key_error("params");
    plan.params = py::reinterpret_steal<py::object>(PySequence_Tuple(listed));
    if (!plan.params) throw py::error_already_set();
    plan.copies = copies_of(plan, optimizer);
    plans_.push_back(std::move(plan));
  }
}

Plan Plans::plan_of(py::object dict, py::handle named, const Stepped& optimizer, bool watched,
                    bool for_devices) {
  PyObject* const group = dict.ptr();
  const Names& names = Names::get();
  Plan plan;
  plan.group = std::move(dict);
  plan.named = py::reinterpret_borrow<py::object>(named);
  plan.rule = &rule_of_group(plans_.size());
  plan.capturable = is_set(group, names.capturable);
  plan.counts_on_device = plan.capturable || is_set(group, names.fused) || counts_itself_;
  plan.has_master = is_set(group, names.master_weights);
  plan.rounds_at_random = is_set(group, names.stochastic_rounding);
  plan.wanted = state_dtype(group);
  if (plan.wanted == StateDtype::unknown || (plan.has_master && plan.rounds_at_random)) {
    optimizer.check_storage(plan.group);
    plan.wanted = state_dtype(group);
  }
  PyObject* const lr = lookup(group, names.lr);
  plan.lr = device_number(lr, plan.capturable);
  plan.lr_on_host = lr != nullptr && TorchReader::get().is_plain(lr) && !plan.lr.number.on_device();
  if (is_set(group, names.differentiable)) {
    plan.to_torch = "differentiable=True";
  } else if (watched) {
    plan.to_torch = "a mode or a trace of torch is to see its operations";
  } else {
    // A program's rate is read here, unless all of its numbers lie on the device.
    AnyRule& there = plan.rule->on_devices();
    const bool lr_there = plan.lr.number.on_device() && (plan.capturable || !there.is_program());
    plan.rule->read_options(group, Checks::none, lr_there);
    if (for_devices && &there != plan.rule) there.read_options(group, Checks::none, lr_there);
  }
  plan.tail = TailOptions::of(group);
  plan.has_norms = plan.rule->has_norms();
  plan.used = used_states(*plan.rule);
  plan.keeps_state = plan.used != 0 || plan.rule->counts_steps() || plan.tail.averages ||
                     plan.has_master || plan.rounds_at_random;
  return plan;
}

AnyRule& Plans::rule_of_group(std::size_t group) {
  while (group >= rules_.size()) rules_.push_back(make_rule(rule_name_));
  return *rules_[group];
}

void Plans::clear() {
  plans_.clear();
  for (const auto& rule : rules_) rule->forget_steps();
}

}  // namespace fastopt
