#include "bindings/step/reading.h"

#include <stdexcept>
#include <utility>

#include "bindings/checks.h"
#include "bindings/item.h"
#include "bindings/step/dtensor.h"
#include "cpu/dispatch.h"
#include "cpu/float_mode.h"
#include "cpu/overlap.h"

namespace fastopt {

ParamReader::ParamReader(Spec& spec, Scratch& scratch, const Stepped& optimizer, bool dry)
    : dry_(dry),
      spec_(spec),
      scratch_(scratch),
      optimizer_(optimizer),
      state_(plain_dict(optimizer.state(), optimizer)) {}

void ParamReader::begin_group(const Plan& plan) {
  group_ = plan.group.ptr();
  rule_ = plan.rule;
  has_norms_ = rule_->has_norms();
  tail_ = plan.tail;
  lr_ = plan.lr;
  capturable_ = plan.capturable;
  counts_on_device_ = plan.counts_on_device || spec_.counts_itself;
  lr_on_host_ = plan.lr_on_host;
  has_master_ = plan.has_master;
  rounds_at_random_ = plan.rounds_at_random;
  wanted_ = plan.wanted;
  used_ = 0;
  for (int i = 0; i < rule_->state_count(); ++i) used_ |= unsigned{rule_->uses(i)} << i;
  keeps_state_ = keeps_state();
  is_on_cuda_ = false;
  last_step_ = -1;
}

void ParamReader::read(const Candidate& candidate) {
  PyObject* const param = candidate.param;
  param_ = param;
  packing_ = nullptr;
  dither_step_ = {};
  rounding_ = nullptr;
  made_rule_state_ = false;
  has_halves_ = false;
  fresh_ = {};
  entries_.emplace(candidate.entries.ptr());
  if (has_norms_) check_norms();
  PyObject* local = local_param();
  read_local(local);
  take(1, candidate.grad.ptr(), "grad");

  const CudaNumber step = read_states();
  if (fresh_.entries) {
    fresh_.param = py::reinterpret_borrow<py::object>(param);
    scratch_.new_states.push_back(std::move(fresh_));
  }
  if (item_.size > 0) add_item(step);
  scratch_.updated.push_back(param);
  if (local != param) scratch_.updated.push_back(local);
}

// Whether a step over so many parameters and elements should let other threads run. Holding costs
// about a microsecond a parameter, which small ones do not repay; but no step is to keep the GIL
// for much longer than the 5 ms after which a thread that waits for it asks for it.
bool is_long(std::size_t params, int64_t elements) {
  constexpr int64_t some = 1 << 18, many = 1 << 23, worth_holding = 1 << 15;
  return elements > many ||
         (elements > some && elements > worth_holding * static_cast<int64_t>(params));
}

void ParamReader::add_item(const CudaNumber& step) {
  if (overlaps_itself(item_)) throw Unfit{"shares memory with its gradient or a state, or they do"};
  set_kernel(item_, *rule_);
  elements_ += item_.size;
  if (is_long(scratch_.items.size() + 1, elements_)) must_hold();
  if (device_ == cpu_device) {
    scratch_.items.push_back(item_);
    scratch_.rule_of_item.push_back(rule_at(step.value, compute_type(item_)));
    scratch_.layout_of_item.push_back(layout_);
    return;
  }
  CudaWork& work = scratch_.cuda;
  work.has_first_step |= !rule_->counts_steps() && made_rule_state_;
  work.params.push_back(
      {item_, step, product_, dither_step_, rounding_, device_, layout_, cuda_group(), like_});
}

// The place of the group among those that CUDA devices work on.
std::size_t ParamReader::cuda_group() {
  CudaWork& work = scratch_.cuda;
  if (!is_on_cuda_) {
    CudaStep of_group;
    const std::shared_ptr<const void> options = rule_->options();
    of_group.rule = rule_->index();
    of_group.options = options.get();
    of_group.lr = lr_.number;
    of_group.ema_decay = tail_.ema_decay;
    work.groups.push_back({options, of_group});
    work.capturable |= capturable_;
    is_on_cuda_ = true;
  }
  return work.groups.size() - 1;
}

// Norms are of whole tensors, whose numbers are the parameter's own.
void ParamReader::check_norms() const {
  if (has_master_ || rounds_at_random_) {
    throw Unfit{"master_weights and stochastic_rounding are not for a rule with norms"};
  }
  if (is_dtensor(param_)) {
    throw Unfit{"a DTensor, of which this process may not know the norm (" +
                distribution_text(distribution(param_)) + ")"};
  }
  if (py::hasattr(param_, "_fsdp_flattened")) {
    throw Unfit{"of FullyShardedDataParallel, so that this process does not know its norm"};
  }
}

// What lies in this process of the parameter: all of it, unless it is a DTensor.
PyObject* ParamReader::local_param() {
  layout_ = Layouts::plain;
  distribution_ = py::object();
  if (reader_.is_plain(param_) || !is_dtensor(param_)) return param_;
  must_hold();
  distribution_ = distribution(param_);
  layout_ = scratch_.layouts.index_of(distribution_);
  if (scratch_.layouts[layout_].partial) {
    throw Unfit{"a sum over processes (" + distribution_text(distribution_) + ")"};
  }
  return hold(local_part(param_));
}

// The same of its gradient or of a state, which must be cut up as it is.
PyObject* ParamReader::local_like_param(PyObject* tensor, const char* name) {
  const bool is_cut = !reader_.is_plain(tensor) && is_dtensor(tensor);
  if (is_cut) must_hold();
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

void ParamReader::note_layout(PyObject* param) {
  if (reader_.is_plain(param) || !is_dtensor(param)) return;
  must_hold();
  scratch_.layouts.index_of(distribution(param));
}

// Begins the item with the parameter itself; with a copy of it where it has gaps.
void ParamReader::read_local(PyObject* local) {
  if (!look(local, &view_)) throw Unfit{unreadable(local)};
  check_device();
  if (dtype_of(view_) < 0) throw Unfit{"dtype " + dtype_name(view_)};
  like_ = local;
  const bool has_gaps = !is_contiguous(view_) && !is_dense(view_);
  if (view_.negated || !is_aligned(view_) || has_gaps) {
    like_ = dense_copy(local, py::none(), true).ptr();
    look(like_, &view_);
    scratch_.copies.push_back(
        {py::reinterpret_borrow<py::object>(local), py::reinterpret_borrow<py::object>(like_)});
  }
  begin_item(item_, view_);
}

// Finds the device whose kernels take the parameter.
void ParamReader::check_device() {
  device_ = cuda_.device_of(view_);
  if (device_ != cpu_device) must_hold();
  const bool is_cuda = view_.device.device_type == kDLCUDA;
  if (device_ == no_device) {
    throw Unfit{is_cuda ? "on " + device_name(view_) + ": " + cuda_.trouble() : "not on the CPU"};
  }
  if (device_ == cpu_device && capturable_) throw Unfit{"capturable=True on the CPU"};
  if (device_ != cpu_device && rule_->unfit_for_devices() != nullptr) {
    throw Unfit{rule_->unfit_for_devices()};
  }
  if (lr_.number.on_device() && lr_.device != device_) {
    throw Unfit{"not on the device of its learning rate"};
  }
  captured_ = is_captured();
  if (captured_ && lr_on_host_) {
    throw std::runtime_error(
        "lr: expected a number, or under capturable=True a tensor on the parameters' device, while "
        "a CUDA graph captures the step; got a tensor on the CPU, whose later values no replay "
        "would see");
  }
}

// Whether what is launched for the parameter becomes part of a graph, whose replays see nothing of
// the host.
bool ParamReader::is_captured() {
  if (device_ == cpu_device || dry_) return false;
  const auto found = captures_.find(device_);
  const bool captured = found != captures_.end()
                            ? found->second
                            : captures_.emplace(device_, cuda_.captures(device_)).first->second;
  met_a_graph_ |= captured;
  return captured;
}

// Throws for a number of the state that lies on the CPU, and would be the same in every replay.
void ParamReader::check_not_captured(const std::string& name) const {
  if (!captured_) return;
  const auto has = [this](PyObject* option) { return PyDict_Contains(group_, option) > 0; };
  const Names& names = Names::get();
  const char* remedy = has(names.capturable) ? "capturable=True"
                       : has(names.fused)    ? "fused=True"
                                             : "it on the parameter's device";
  throw std::runtime_error(name + " lies on the CPU while a CUDA graph captures the step, and " +
                           "every replay would be of the same number; expected " + remedy);
}

// Throws for a state that would be made anew by every replay.
void ParamReader::check_no_new_state(PyObject* name) const {
  if (!captured_) return;
  const std::string text = py::str(name);
  const bool is_number = name == Names::get().step || name == spec_.product;
  if (is_number && !counts_on_device_) check_not_captured(text);
  throw std::runtime_error(text +
                           " would be made by a step that a CUDA graph captures, and anew by every "
                           "replay; expected a step before the capture");
}

// Whether a number of the state lies on the parameter's device and not on the CPU. In the walk of
// tests, all lies on the CPU, and the options say where it would, if it does not `always`.
bool ParamReader::is_beside_param(const View& view, bool always) const {
  if (device_ == cpu_device || cuda_.device_of(view) != device_) return false;
  return !on_cpu(view) || counts_on_device_ || always;
}

namespace {

// Whether a dense tensor's storage was freed, as by resize_(0); not one that has none by its kind.
bool is_freed(py::handle tensor) {
  try {
    if (!tensor.attr("layout").is(py::module_::import("torch").attr("strided")) ||
        tensor.attr("device").attr("type").cast<std::string>() == "meta" ||
        tensor.attr("_is_zerotensor")().cast<bool>()) {
      return false;
    }
    return tensor.attr("numel")().cast<int64_t>() > 0 &&
           tensor.attr("untyped_storage")().attr("nbytes")().cast<int64_t>() == 0;
  } catch (py::error_already_set&) {  // a tensor of a transformation
    return false;
  }
}

}  // namespace

// Fills the item's states and tells the number of this step.
CudaNumber ParamReader::read_states() {
  if (!keeps_state_) return CudaNumber::of(1);
  const bool empty = entries_->empty();
  CudaNumber step = {};
  if (rule_->counts_steps()) {
    PyObject* counter = entries_->find(Names::get().step);
    if (counter == nullptr && !empty) throw py::key_error("step");
    step = count(counter, Names::get().step);
  }
  if (spec_.product != nullptr) read_product(step, empty);
  if (!spec_.kept.empty()) read_kept(step.value, empty);
  for (int i = 0; i < rule_->state_count(); ++i) {
    if (rule_->uses(i)) read_rule_state(i, empty);
  }
  const bool has_codes = packing_ != nullptr && packing_->row > 0;
  if (has_codes || has_halves_) {
    // The dither is of the step, even where the rule does not ask which it is.
    if (!rule_->counts_steps()) step = count(entries_->find(Names::get().step), Names::get().step);
    dither_step_ = step;
    if (has_codes && device_ == cpu_device) packing_->dither = dither_at(step.value);
    if (has_halves_) set_rounding(step);
  }
  read_master();
  if (tail_.averages) read_average();
  if (rule_->counts_steps()) return step;
  return CudaNumber::of(made_rule_state_ ? 1 : 2);  // it only asks whether it is the first
}

// Whether the group's options keep anything from step to step.
bool ParamReader::keeps_state() const {
  if (rule_->counts_steps() || tail_.averages || has_master_ || rounds_at_random_) return true;
  for (int i = 0; i < rule_->state_count(); ++i) {
    if (rule_->uses(i)) return true;
  }
  return false;
}

// Entries mostly stand in the order of the parameters, so the next one is tried before the hash,
// which calls into Python.
py::object ParamReader::find_entries(PyObject* param) {
  if (!keeps_state_) {
    out_of_order_ = true;  // nothing says whether the parameter comes twice
    return {};
  }
  PyObject *key, *value;
  Py_ssize_t position = state_position_;
  if (PyDict_Next(state_.ptr(), &position, &key, &value) && key == param) {
    state_position_ = position;
  } else {
    out_of_order_ = true;
    value = PyDict_GetItemWithError(state_.ptr(), param);
    if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  }
  if (value == nullptr || PyDict_CheckExact(value)) {
    return py::reinterpret_borrow<py::object>(value);
  }
  return plain_dict(value, optimizer_);
}

// Reads a tensor's memory. The storage is held beside the tensor, since `tensor.data = ...` in
// another thread puts another one in its place.
bool ParamReader::look(PyObject* tensor, View* view) {
  if (!reader_.read(tensor, view)) return false;
  if (!scratch_.holds || element_count(*view) == 0) return true;
  static PyObject* const untyped_storage = PyUnicode_InternFromString("untyped_storage");
  hold(py::reinterpret_borrow<py::object>(tensor));
  PyObject* storage = PyObject_CallMethodNoArgs(tensor, untyped_storage);
  if (storage == nullptr) throw py::error_already_set();
  hold(py::reinterpret_steal<py::object>(storage));
  if (!reader_.read(tensor, view)) return false;
  scratch_.seen.push_back({tensor, storage, data_of(*view)});
  return true;
}

void ParamReader::read_rule_state(int i, bool empty) {
  PyObject* tensor = entries_->find(spec_.states[i]);
  const bool is_new = tensor == nullptr;
  if (is_new) {
    if (!empty && rule_->always_uses(i)) throw py::key_error(rule_->state_name(i));
    if (dry_) return;
    tensor = make_state(spec_.states[i]);
    made_rule_state_ = true;
  }
  const std::size_t copies = scratch_.copies.size();
  View view = laid_out(tensor, rule_->state_name(i), true);
  if (!is_new && is_stored_otherwise(i, view)) {
    scratch_.copies.resize(copies);
    if (dry_) return;
    tensor = convert_state(i);
    view = laid_out(tensor, rule_->state_name(i), true);
  }
  const Coding coding = coding_of(view);
  if (coding == Coding::none) {
    set_state(2 + i, view, rule_->state_name(i));
    has_halves_ |= dtype_bytes[static_cast<int>(item_.dtypes[2 + i])] == 2;
    return;
  }
  item_.arrays[2 + i] = data_of(view);
  set_coding(i, coding, is_new);
}

void ParamReader::read_average() {
  PyObject* tensor = find_or_make(Names::get().ema);
  if (tensor != nullptr) take(ema_array, tensor, "ema");
  if (tail_.bias_correction || !entries_->at_end()) read_average_weight();
}

// The sum of the weights in an average that began at 0: what the average of a constant 1 is.
void ParamReader::read_average_weight() {
  PyObject* const name = Names::get().ema_weight;
  PyObject* tensor = entries_->find(name);
  if (tensor == nullptr && (dry_ || !tail_.bias_correction)) return;
  if (tensor == nullptr) tensor = make_state(name);
  View view;
  const bool readable = look(tensor, &view);
  const CudaNumber there = readable ? beside_param(tensor, view, true) : CudaNumber{};
  const double decay = tail_.ema_decay, growth = 1 - decay;
  if (there.on_device()) {
    scratch_.cuda.counters.push_back({{there, decay, growth}, device_});
    return;
  }
  Scratch::Count next = counter(tensor, readable ? &view : nullptr, "ema_weight");
  if (next.type == Scratch::Count::float64) {
    next.value = decay * next.value + growth;
  } else {
    const float product = static_cast<float>(decay) * static_cast<float>(next.value);
    next.value = product + static_cast<float>(growth);
  }
  scratch_.counts.push_back(next);
}

// nullptr on a dry walk for a state that is not there yet.
PyObject* ParamReader::find_or_make(PyObject* name) {
  PyObject* tensor = entries_->find(name);
  return tensor != nullptr || dry_ ? tensor : make_state(name);
}

PyObject* ParamReader::make_state(PyObject* name) {
  must_hold();
  check_no_new_state(name);
  py::object tensor = optimizer_.new_state(group_, param_, name);
  if (!fresh_.entries) fresh_.entries = py::dict();
  fresh_.entries[py::handle(name)] = tensor;
  return tensor.ptr();  // kept alive by fresh_.entries
}

// One more on a step tensor, to be stored with the rest; the number that it will hold. A tensor
// that is not there yet is made under this name.
CudaNumber ParamReader::count(PyObject* tensor, PyObject* name) {
  if (tensor == nullptr && dry_) return CudaNumber::of(1);
  if (tensor == nullptr) tensor = make_state(name);
  View view;
  const bool readable = look(tensor, &view);
  const CudaNumber there = readable ? beside_param(tensor, view) : CudaNumber{};
  if (there.on_device()) {
    scratch_.cuda.counters.push_back({{there, 1, 1}, device_});
    return there;
  }
  Scratch::Count next = counter(tensor, readable ? &view : nullptr, "step");
  next.value += 1;
  if (next.type == Scratch::Count::float32) next.value = static_cast<float>(next.value);
  scratch_.counts.push_back(next);
  return CudaNumber::of(next.value);
}

// Where a number of the state lies on the parameter's device; a value for one that does not.
CudaNumber ParamReader::beside_param(PyObject* tensor, const View& view, bool always) const {
  return is_beside_param(view, always) ? device_number(tensor, true).number : CudaNumber{};
}

// The product that the rule keeps, which is to have this step's factor.
void ParamReader::read_product(const CudaNumber& step, bool empty) {
  PyObject* tensor = entries_->find(spec_.product);
  if (tensor == nullptr && !empty) throw py::key_error(rule_->product_name());
  if (tensor == nullptr && dry_) return;
  if (tensor == nullptr) tensor = make_state(spec_.product);
  View view;
  const bool readable = look(tensor, &view);
  product_ = readable ? beside_param(tensor, view) : CudaNumber{};
  if (product_.on_device()) {
    scratch_.cuda.products.push_back({{product_, step}, device_, cuda_group()});
    return;
  }
  Scratch::Count product = counter(tensor, readable ? &view : nullptr, rule_->product_name());
  if (step.on_device()) {
    throw Unfit{std::string("its state's ") + rule_->product_name() +
                " lies on the CPU, but its step does not"};
  }
  FloatMode mode;
  const DType stored = static_cast<DType>(dtype_of(view));
  product.value = rule_->next_product(stored, product.value, step.value);
  product_ = CudaNumber::of(product.value);
  scratch_.counts.push_back(product);
}

// The other numbers that the rule keeps, which become those after this step.
void ParamReader::read_kept(double step, bool empty) {
  std::vector<double> numbers;
  const std::size_t first = scratch_.counts.size();
  for (std::size_t k = 0; k < spec_.kept.size(); ++k) {
    PyObject* tensor = entries_->find(spec_.kept[k]);
    const char* const name = rule_->kept_name(static_cast<int>(k));
    if (tensor == nullptr && !empty) throw py::key_error(name);
    if (tensor == nullptr && dry_) return;
    if (tensor == nullptr) tensor = make_state(spec_.kept[k]);
    View view;
    const bool readable = reader_.read(tensor, &view);
    scratch_.counts.push_back(counter(tensor, readable ? &view : nullptr, name));
    numbers.push_back(scratch_.counts.back().value);
  }
  if (numbers != last_kept_) last_step_ = -1;
  last_kept_ = numbers;
  if (rule_->runs_python(numbers, step)) must_hold();
  FloatMode mode;
  rule_->advance(numbers, step);
  for (std::size_t k = 0; k < numbers.size(); ++k) scratch_.counts[first + k].value = numbers[k];
}

// A tensor of one number, with the number that it holds; nullptr for one that cannot be read.
Scratch::Count ParamReader::counter(PyObject* tensor, const View* view, const char* name) const {
  if (view == nullptr) unreadable(tensor);  // which throws where torch's step must not go, either
  if (view == nullptr || !on_cpu(*view) || dtype_of(*view) < 0 ||
      dtype_of(*view) >= compute_count || element_count(*view) != 1 || !is_aligned(*view)) {
    throw Unfit{std::string("its state's ") + name +
                " is no float32 or float64 tensor on the CPU, at a multiple of its size"};
  }
  if (capturable_) {
    throw Unfit{std::string("its state's ") + name + " lies on the CPU, under capturable=True"};
  }
  check_not_captured(name);
  void* const data = data_of(*view);
  if (static_cast<DType>(dtype_of(*view)) == DType::float64) {
    return {data, Scratch::Count::float64, *static_cast<double*>(data)};
  }
  return {data, Scratch::Count::float32, *static_cast<float*>(data)};
}

// Sets an array of the item to the memory of a gradient or state.
void ParamReader::take(int array, PyObject* whole, const char* name) {
  set_state(array, laid_out(whole, name, array != 1), name);
}

void ParamReader::set_state(int array, const View& view, const char* name) {
  if (!stored_with(view, view_)) {
    throw Unfit{std::string(name) + " of dtype " + dtype_name(view) + " for a parameter of " +
                dtype_name(view_)};
  }
  set_array(item_, array, view);
}

// The memory of a gradient or state, laid out like the parameter; of a copy if it is laid out
// otherwise.
View ParamReader::laid_out(PyObject* whole, const char* name, bool written) {
  View view;
  PyObject* tensor = local_like_param(whole, name);
  if (!look(tensor, &view)) throw Unfit{std::string(name) + ": " + unreadable(tensor)};
  if (cuda_.device_of(view) != device_) {
    throw Unfit{std::string(name) +
                (device_ == cpu_device ? " not on the CPU" : " not on its parameter's device")};
  }
  if (!same_shape(view, view_)) {
    throw Unfit{std::string(name) + " of shape " + shape_text(view) + " for a parameter of " +
                shape_text(view_)};
  }
  if (is_aligned(view) && !view.negated && same_layout(view, view_)) return view;
  py::object copy = dense_copy(tensor, py::handle(like_), written);
  if (written) scratch_.copies.push_back({py::reinterpret_borrow<py::object>(tensor), copy});
  look(copy.ptr(), &view);
  return view;
}

PyObject* ParamReader::hold(py::object object) {
  scratch_.held.push_back(std::move(object));
  return scratch_.held.back().ptr();
}

py::object ParamReader::dense_copy(PyObject* tensor, py::handle like, bool written) {
  if (dry_) return py::reinterpret_borrow<py::object>(tensor);
  must_hold();
  py::object copy = optimizer_.dense_copy(tensor, like, written);
  hold(copy);
  return copy;
}

std::string ParamReader::unreadable(PyObject* object) const {
  if (reader_.is_plain(object) && is_freed(object)) {
    if (dry_) return "without storage, which was freed";
    throw std::runtime_error(  // torch's step would read and write there
        "a tensor of shape " + text(py::handle(object).attr("shape")) +
        ": expected a parameter, gradient or state with storage, got one whose storage was freed");
  }
  if (reader_.is_plain(object)) return "sparse or without storage";
  return "of type " + std::string(Py_TYPE(object)->tp_name);
}

// The index of the rule object for this step; parameters that are equally far share one.
std::size_t ParamReader::rule_at(double step, DType compute) {
  if (step != last_step_ || product_.value != last_product_ || compute != last_compute_) {
    if (rule_->runs_python({}, step)) must_hold();
    FloatMode mode;
    scratch_.rules.push_back(rule_->at_step(compute, step, product_.value));
    scratch_.rules.back().tail.ema_decay = tail_.ema_decay;
    last_step_ = step;
    last_product_ = product_.value;
    last_compute_ = compute;
  }
  return scratch_.rules.size() - 1;
}

}  // namespace fastopt
