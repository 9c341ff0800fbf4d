#include "bindings/step.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

#include "bindings/clip.h"
#include "bindings/dtensor.h"
#include "bindings/group.h"
#include "bindings/item.h"
#include "bindings/rules.h"
#include "bindings/scratch.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/float_mode.h"
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
        spec_(spec),
        scratch_(spec),
        rule_(*scratch_->rule),
        optimizer_(optimizer),
        state_(py::reinterpret_borrow<py::object>(optimizer.attr("state"))) {}

  void read_groups() {
    py::list groups = optimizer_.attr("param_groups");
    for (py::handle group : groups) read_group(group.ptr());
    if (ever_out_of_order_ && has_twice(0)) {
      throw py::value_error("some parameters appear in more than one parameter group");
    }
  }

  py::list left_over() { return list_of(scratch_->left_over); }

  // Once the norm has been taken, nothing can fail but torch itself.
  void write(int threads, double grad_scale) {
    const double factor = grad_factor(*scratch_.get(), optimizer_, tail_, threads, grad_scale);
    if (!scratch_->left_over.empty()) {
      if (scratch_->updated.empty()) optimizer_.attr("_warn_unfused")(left_over());
      optimizer_.attr("_step_with_torch")(left_over(), grad_scale);
    }
    for (auto& fresh : scratch_->new_states) commit(fresh);
    for (const auto& count : scratch_->counts) count.store();
    for (BoundRule& rule : scratch_->rules) rule.tail.grad_factor = factor;
    for (std::size_t i = 0; i < scratch_->items.size(); ++i) {
      scratch_->items[i].rule = &scratch_->rules[scratch_->rule_of_item[i]];
    }
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
  struct Unfit {
    std::string reason;
  };

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
                              : is_set(group, names.capturable)   ? "capturable=True on the CPU"
                                                                  : nullptr;
    if (whole_group == nullptr) rule_.read_options(group, Checks::none);
    read_tail(group);
    has_master_ = is_set(group, names.master_weights);
    rounds_at_random_ = is_set(group, names.stochastic_rounding);
    last_step_ = -1;
    PyObject* listed = lookup(group, names.params);
    if (listed == nullptr) throw py::key_error("params");
    py::object params = py::reinterpret_steal<py::object>(
        PySequence_Fast(listed, "params: expected a list of parameters"));
    if (!params) throw py::error_already_set();
    const Scratch::Mark before = scratch_->mark();
    if (whole_group == nullptr) read_params(group, params.ptr());
    if (out_of_order_ && has_twice(before.updated)) {
      scratch_->roll_back(before);
      whole_group = "the same parameter twice in a group";
    }
    if (whole_group != nullptr) leave_all(group, params.ptr(), whole_group);
    ever_out_of_order_ |= out_of_order_;
    out_of_order_ = false;
  }

  void read_params(PyObject* group, PyObject* params) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      PyObject* param = PySequence_Fast_GET_ITEM(params, i);
      py::object grad = reader_.grad(param);
      if (grad.is_none()) {
        if (tail_.clips) note_layout(param);
        if (!dry_) continue;
        grad = py::reinterpret_borrow<py::object>(param);
      }
      const Scratch::Mark mark = scratch_->mark();
      try {
        read_param(group, param, std::move(grad));
      } catch (const Unfit& unfit) {
        scratch_->roll_back(mark);
        leave(group, param, unfit.reason);
      }
    }
  }

  void leave_all(PyObject* group, PyObject* params, const char* reason) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      PyObject* param = PySequence_Fast_GET_ITEM(params, i);
      if (dry_ || !reader_.grad(param).is_none()) leave(group, param, reason);
    }
  }

  // Whether a parameter was read twice since `from`. Those whose states stood in order, each
  // after the one before, need no look: the keys of a dict differ.
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

  void read_param(PyObject* group, PyObject* param, py::object grad) {
    View view;
    packing_ = nullptr;
    PyObject* local = local_param(param);
    if (!reader_.read(local, &view)) throw Unfit{unreadable(local)};
    if (!on_cpu(view)) throw Unfit{"not on the CPU"};
    if (dtype_of(view) < 0) throw Unfit{"dtype " + dtype_name(view)};
    Item item = new_item(view);
    like_param_ = local;
    if (view.negated || !is_aligned(view) || (!is_contiguous(view) && !is_dense(view))) {
      like_param_ = dense_copy(local, py::none(), true).ptr();
      reader_.read(like_param_, &view);
      scratch_->copies.push_back({py::reinterpret_borrow<py::object>(local),
                                  py::reinterpret_borrow<py::object>(like_param_)});
    }
    set_array(item, 0, view);
    take(item, 1, grad.ptr(), view, "grad");
    scratch_->held.push_back(std::move(grad));

    const double step = read_state(group, param, view, item);
    if (item.size > 0) {
      set_kernel(item, rule_, packing_);
      scratch_->items.push_back(item);
      scratch_->rule_of_item.push_back(rule_at(step, compute_type(item)));
      scratch_->layout_of_item.push_back(layout_);
    }
    scratch_->updated.push_back(py::reinterpret_borrow<py::object>(param));
    if (local != param) scratch_->updated.push_back(py::reinterpret_borrow<py::object>(local));
  }

  // What lies in this process of a parameter: all of it, unless it is a DTensor.
  PyObject* local_param(PyObject* param) {
    layout_ = Layouts::plain;
    distribution_ = py::object();
    if (reader_.is_plain(param) || !is_dtensor(param)) return param;
    distribution_ = distribution(param);
    layout_ = scratch_->layouts.index_of(distribution_);
    if (scratch_->layouts[layout_].partial) {
      throw Unfit{"a sum over processes (" + distribution_text(distribution_) + ")"};
    }
    return hold(local_part(param));
  }

  // The same of its gradient or of a state, which must be cut up as it is.
  PyObject* local_like_param(PyObject* tensor, const char* name) {
    const bool is_cut = !reader_.is_plain(tensor) && is_dtensor(tensor);
    if (!is_cut && !distribution_) return tensor;
    const std::string what = name;
    if (!is_cut) throw Unfit{what + " is no DTensor, but its parameter is one"};
    if (!distribution_) throw Unfit{what + " is a DTensor, but its parameter is none"};
    const py::object own = distribution(tensor);
    if (!same_distribution(own, distribution_)) {
      throw Unfit{what + " is a DTensor of " + distribution_text(own) + ", its parameter one of " +
                  distribution_text(distribution_)};
    }
    return hold(local_part(tensor));
  }

  // Every process must list the same layouts, even if it has no gradient for one.
  void note_layout(PyObject* param) {
    if (reader_.is_plain(param) || !is_dtensor(param)) return;
    scratch_->layouts.index_of(distribution(param));
  }

  PyObject* hold(py::object object) {
    scratch_->held.push_back(std::move(object));
    return scratch_->held.back().ptr();
  }

  // Fills the item's states and tells the number of this step.
  double read_state(PyObject* group, PyObject* param, const DLTensor& view, Item& item) {
    if (!keeps_state()) {
      out_of_order_ = true;  // nothing says whether the parameter comes twice
      return 1;
    }
    Entries entries(find_state(param));
    const bool empty = entries.empty();
    Scratch::NewState fresh;
    double step = 0;
    if (rule_.counts_steps()) {
      PyObject* counter = entries.find(Names::get().step);
      if (counter == nullptr && !empty) throw py::key_error("step");
      step = count(group, param, counter, Names::get().step, fresh);
    }
    bool made = false;
    for (int i = 0; i < rule_.state_count(); ++i) {
      if (!rule_.uses(i)) continue;
      PyObject* tensor = entries.find(spec_.states[i]);
      const bool is_new = tensor == nullptr;
      if (is_new) {
        if (!empty && rule_.always_uses(i)) throw py::key_error(rule_.state_name(i));
        if (dry_) continue;
        tensor = make_state(group, param, spec_.states[i], fresh);
        made = true;
      }
      take_state(group, param, entries, i, tensor, is_new, view, item, fresh);
    }
    if (packing_ != nullptr && packing_->row > 0) {
      // The dither is of the step, even where the rule does not ask which it is.
      if (!rule_.counts_steps()) {
        step = count(group, param, entries.find(Names::get().step), Names::get().step, fresh);
      }
      packing_->dither = dither_at(step);
    }
    read_master(group, param, entries, view, item, fresh);
    if (tail_.averages) {
      PyObject* tensor = entries.find(Names::get().ema);
      if (tensor == nullptr && !dry_) tensor = make_state(group, param, Names::get().ema, fresh);
      if (tensor != nullptr) take(item, ema_array, tensor, view, "ema");
      if (tail_.bias_correction) {
        count(group, param, entries.find(Names::get().ema_step), Names::get().ema_step, fresh);
      }
    }
    if (fresh.entries) {
      fresh.param = py::reinterpret_borrow<py::object>(param);
      scratch_->new_states.push_back(std::move(fresh));
    }
    if (!rule_.counts_steps())
      step = made ? 1 : 2;  // such a rule only asks whether it is the first
    return step;
  }

  // Whether the group's options keep anything from step to step.
  bool keeps_state() const {
    if (rule_.counts_steps() || tail_.averages || has_master_ || rounds_at_random_) return true;
    for (int i = 0; i < rule_.state_count(); ++i) {
      if (rule_.uses(i)) return true;
    }
    return false;
  }

  // The entry of optimizer.state, or nullptr. Entries mostly stand in the order of the parameters,
  // so the next one is tried before the hash, which calls into Python.
  PyObject* find_state(PyObject* param) {
    PyObject *key, *value;
    Py_ssize_t position = state_position_;
    if (PyDict_Next(state_.ptr(), &position, &key, &value) && key == param) {
      state_position_ = position;
      return value;
    }
    out_of_order_ = true;
    return lookup(state_.ptr(), param);
  }

  // One more on a step tensor, to be stored with the rest; the number that it will hold. A tensor
  // that is not there yet is made under this name.
  double count(PyObject* group, PyObject* param, PyObject* tensor, PyObject* name,
               Scratch::NewState& fresh) {
    if (tensor == nullptr && dry_) return 1;
    if (tensor == nullptr) tensor = make_state(group, param, name, fresh);
    View view;
    if (!reader_.read(tensor, &view) || !on_cpu(view) || dtype_of(view) < 0 ||
        dtype_of(view) >= compute_count || element_count(view) != 1) {
      throw Unfit{"its state's step is no float32 or float64 tensor on the CPU"};
    }
    const bool is_double = static_cast<DType>(dtype_of(view)) == DType::float64;
    void* data = data_of(view);
    const double next = is_double ? *static_cast<double*>(data) + 1
                                  : static_cast<double>(*static_cast<float*>(data) + 1.0f);
    scratch_->counts.push_back(
        {data, is_double ? Scratch::Count::float64 : Scratch::Count::float32, next});
    return next;
  }

  PyObject* make_state(PyObject* group, PyObject* param, PyObject* name, Scratch::NewState& fresh) {
    py::object tensor =
        optimizer_.attr("_new_state")(py::handle(group), py::handle(param), py::handle(name));
    if (!fresh.entries) fresh.entries = py::dict();
    fresh.entries[py::handle(name)] = tensor;
    return tensor.ptr();  // kept alive by fresh.entries
  }

  void commit(Scratch::NewState& fresh) {
    PyObject* entries = lookup(state_.ptr(), fresh.param.ptr());
    if (entries == nullptr) {
      state_[fresh.param] = fresh.entries;
    } else if (PyDict_Update(entries, fresh.entries.ptr()) != 0) {
      throw py::error_already_set();
    }
  }

  // Sets an item's array to the memory of a gradient or state.
  void take(Item& item, int array, PyObject* whole, const DLTensor& like, const char* name) {
    const View view = laid_out(whole, like, name, array != 1);
    if (!stored_with(view, like)) {
      throw Unfit{std::string(name) + " of dtype " + dtype_name(view) + " for a parameter of " +
                  dtype_name(like)};
    }
    set_array(item, array, view);
  }

  // The memory of a gradient or state, laid out like the parameter; of a copy if it is laid out
  // otherwise.
  View laid_out(PyObject* whole, const DLTensor& like, const char* name, bool written) {
    View view;
    PyObject* tensor = local_like_param(whole, name);
    if (!reader_.read(tensor, &view)) throw Unfit{std::string(name) + ": " + unreadable(tensor)};
    if (!on_cpu(view)) throw Unfit{std::string(name) + " not on the CPU"};
    if (!same_shape(view, like)) {
      throw Unfit{std::string(name) + " of shape " + shape_text(view) + " for a parameter of " +
                  shape_text(like)};
    }
    if (is_aligned(view) && !view.negated && same_layout(view, like)) return view;
    py::object copy = dense_copy(tensor, py::handle(like_param_), written);
    if (written) scratch_->copies.push_back({py::reinterpret_borrow<py::object>(tensor), copy});
    reader_.read(copy.ptr(), &view);
    return view;
  }

  // A state in 8 bits has a second tensor for its blocks' scales; any other is like the gradient.
  void take_state(PyObject* group, PyObject* param, Entries& entries, int i, PyObject* tensor,
                  bool is_new, const DLTensor& like, Item& item, Scratch::NewState& fresh) {
    View view;
    const bool readable = reader_.read(local_like_param(tensor, rule_.state_name(i)), &view);
    const Coding coding = readable ? coding_of(view) : Coding::none;
    if (coding == Coding::none) return take(item, 2 + i, tensor, like, rule_.state_name(i));
    if (!is_contiguous(like) || like.ndim == 0) {
      throw Unfit{std::string(rule_.state_name(i)) +
                  " in 8 bits beside a parameter that is not contiguous"};
    }
    item.arrays[2 + i] = data_of(laid_out(tensor, like, rule_.state_name(i), true));
    PyObject* scales = entries.find(spec_.scales[i]);
    if (scales == nullptr) {
      if (!is_new) throw py::key_error(std::string(rule_.state_name(i)) + "_scale");
      scales = make_state(group, param, spec_.scales[i], fresh);
    }
    Packing& packing = packing_of(item);
    packing.codings[i] = coding;
    packing.row = element_count(like) / like.shape[0];
    packing.scales[i] = scales_of(scales, like.shape[0], packing.row);
  }

  float* scales_of(PyObject* tensor, int64_t rows, int64_t row) {
    View view;
    const int64_t blocks = (row + block_size - 1) / block_size;
    if (!reader_.read(tensor, &view) || !on_cpu(view) || !is_contiguous(view) || view.ndim != 2 ||
        view.shape[0] != rows || view.shape[1] != blocks ||
        dtype_of(view) != static_cast<int>(DType::float32)) {
      throw Unfit{"scales of a state in 8 bits that are not float32 of shape (" +
                  std::to_string(rows) + ", " + std::to_string(blocks) + ")"};
    }
    return static_cast<float*>(data_of(view));
  }

  // What a 16-bit parameter's group asks for behind it.
  void read_master(PyObject* group, PyObject* param, Entries& entries, const DLTensor& like,
                   Item& item, Scratch::NewState& fresh) {
    const bool is_bfloat = item.dtypes[0] == DType::bfloat16;
    if (!is_bfloat && item.dtypes[0] != DType::float16) return;
    if (rounds_at_random_ && is_bfloat) return read_rounding(group, param, entries, item, fresh);
    if (!has_master_) return;
    PyObject* name = is_bfloat ? Names::get().param_low : Names::get().master;
    PyObject* tensor = entries.find(name);
    if (tensor == nullptr && dry_) return;
    if (tensor == nullptr) tensor = make_state(group, param, name, fresh);
    const View view = laid_out(tensor, like, is_bfloat ? "param_low" : "master", true);
    const bool fits = is_bfloat ? view.dtype.code == kDLInt && view.dtype.bits == 16
                                : dtype_of(view) == static_cast<int>(DType::float32);
    if (!fits) throw Unfit{"its master's dtype is " + dtype_name(view)};
    Packing& packing = packing_of(item);
    packing.master = is_bfloat ? Master::low_half : Master::whole;
    packing.master_data = data_of(view);
    item.dtypes[0] = DType::float32;
  }

  // The seed of a parameter's random rounding and the number of the last one.
  void read_rounding(PyObject* group, PyObject* param, Entries& entries, Item& item,
                     Scratch::NewState& fresh) {
    PyObject* tensor = entries.find(Names::get().rounding);
    if (tensor == nullptr && dry_) return;
    if (tensor == nullptr) tensor = make_state(group, param, Names::get().rounding, fresh);
    View view;
    if (!reader_.read(tensor, &view) || !on_cpu(view) || view.dtype.code != kDLInt ||
        view.dtype.bits != 64 || element_count(view) != 2 || !is_contiguous(view)) {
      throw Unfit{"its state's rounding is no int64 tensor of a seed and a count"};
    }
    int64_t* const numbers = static_cast<int64_t*>(data_of(view));
    Packing& packing = packing_of(item);
    packing.master = Master::stochastic;
    packing.seed = static_cast<uint64_t>(numbers[0]);
    const uint64_t count = static_cast<uint64_t>(numbers[1]) + 1;
    packing.offset = static_cast<uint64_t>(RandomDomain::rounding) << offset_bits | count;
    packing.index = first_index(param);
    scratch_->counts.push_back({numbers + 1, Scratch::Count::int64, static_cast<double>(count)});
    item.dtypes[0] = DType::float32;
  }

  // Where the elements of this process lie in the whole parameter.
  uint64_t first_index(PyObject* param) {
    if (!distribution_) return 0;
    const py::object index = optimizer_.attr("_first_index")(py::handle(param));
    if (index.is_none())
      throw Unfit{"random rounding of a part that is not a range of its elements"};
    return index.cast<uint64_t>();
  }

  Packing& packing_of(Item& item) {
    if (packing_ == nullptr) packing_ = &scratch_->packings.emplace_back();
    item.packing = packing_;
    return *packing_;
  }

  py::object dense_copy(PyObject* tensor, py::handle like, bool written) {
    if (dry_) return py::reinterpret_borrow<py::object>(tensor);
    py::object copy = optimizer_.attr("_dense_copy")(py::handle(tensor), like, written);
    hold(copy);
    return copy;
  }

  std::string unreadable(PyObject* object) const {
    if (reader_.is_plain(object)) return "sparse or without storage";
    return "of type " + std::string(Py_TYPE(object)->tp_name);
  }

  // The index of the rule object for this step; parameters at the same step share one.
  std::size_t rule_at(double step, DType compute) {
    if (step != last_step_ || compute != last_compute_) {
      FloatMode mode;
      scratch_->rules.push_back(rule_.at_step(compute, step));
      scratch_->rules.back().tail.ema_decay = tail_.ema_decay;
      last_step_ = step;
      last_compute_ = compute;
    }
    return scratch_->rules.size() - 1;
  }

  // Parameters at the same step share one.
  const Dither* dither_at(double step) {
    if (scratch_->dithers.empty() || step != last_dither_) {
      make_dither(step, scratch_->dithers.emplace_back());
      last_dither_ = step;
    }
    return &scratch_->dithers.back();
  }

  template <class Objects>
  static py::list list_of(const Objects& objects) {
    py::list list(objects.size());
    for (std::size_t i = 0; i < objects.size(); ++i) list[i] = py::handle(objects[i]);
    return list;
  }

  const bool dry_;
  Spec& spec_;
  Lent scratch_;
  AnyRule& rule_;
  const py::object& optimizer_;
  py::object state_;
  const TorchReader& reader_ = TorchReader::get();
  TailOptions tail_;  // of the group that is being read; what clips is the same in all
  bool has_master_ = false, rounds_at_random_ = false;  // likewise
  Packing* packing_ = nullptr;  // of the parameter that is being read, if it needs one
  int groups_read_ = 0;
  Py_ssize_t state_position_ = 0;
  bool out_of_order_ = false, ever_out_of_order_ = false;
  std::vector<PyObject*> sorted_;
  PyObject* like_param_ = nullptr;
  py::object distribution_;      // of the parameter that is being read; null if it is no DTensor
  int layout_ = Layouts::plain;  // likewise
  double last_step_ = -1, last_dither_ = -1;
  DType last_compute_ = DType::float32;
};

Spec& spec_of(const std::string& rule) {
  static auto& specs = *new std::unordered_map<std::string, std::unique_ptr<Spec>>();
  std::unique_ptr<Spec>& spec = specs[rule];
  if (!spec) spec = std::make_unique<Spec>(rule);
  return *spec;
}

}  // namespace

void step(const std::string& rule, const py::object& optimizer, int threads, double grad_scale) {
  Walk walk(spec_of(rule), optimizer);
  walk.read_groups();
  walk.write(threads, grad_scale);
}

py::list left_over(const std::string& rule, const py::object& optimizer) {
  Walk walk(spec_of(rule), optimizer, true);
  walk.read_groups();
  return walk.left_over();
}

}  // namespace fastopt
