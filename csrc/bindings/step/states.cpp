#include "bindings/step/states.h"

#include <string>
#include <vector>

namespace fastopt {

void States::read() {
  if (!plan_.keeps_state) {
    reading_.numbers.step = CudaNumber::of(1);
    return;
  }
  AnyRule& rule = *plan_.rule;
  CudaNumber step = {};
  if (rule.counts_steps()) step = clock_.count(entries_.find_or_begin(kept_.step));
  if (kept_.product != nullptr) {
    PyObject* tensor = entries_.find_or_begin(kept_.product);
    if (tensor != nullptr) reading_.numbers.product = clock_.multiply(tensor, step);
  }
  if (!kept_.numbers.empty()) read_numbers(step);
  for (int i = 0; plan_.used >> i != 0; ++i) {
    if ((plan_.used >> i & 1) != 0) read_rule_state(i);
  }
  const bool has_codes = reading_.packing && reading_.packing->row > 0;
  if (has_codes || reading_.has_halves) {
    // The dither is of the step, even where the rule does not ask which it is.
    if (!rule.counts_steps()) step = clock_.count(entries_.find_or_make(kept_.step));
    reading_.dither_step = step;
    // States in 16 bits round by an element's place in the whole parameter; where the elements are
    // no range of it, by that in this process.
    if (reading_.has_halves) {
      reading_.item.rounding.first = static_cast<int64_t>(find_first_index().value_or(0));
    }
  }
  read_master();
  if (plan_.tail.averages) read_average();
  // A rule that does not count steps only asks whether this is the first.
  reading_.numbers.step =
      rule.counts_steps() ? step : CudaNumber::of(reading_.made_rule_state ? 1 : 2);
}

void States::read_numbers(const CudaNumber& step) {
  std::vector<PyObject*> tensors;
  for (PyObject* name : kept_.numbers) {
    tensors.push_back(entries_.find_or_begin(name));
    if (tensors.back() == nullptr) return;
  }
  reading_.numbers.step = step;
  clock_.advance(tensors, reading_.numbers);
}

void States::read_rule_state(int i) {
  const char* const name = plan_.rule->state_name(i);
  PyObject* tensor = entries_.find(kept_.states[i]);
  const bool is_new = tensor == nullptr;
  if (is_new) {
    if (!entries_.empty() && plan_.rule->always_uses(i)) throw py::key_error(name);
    if (memory_.dry()) {
      reading_.has_halves |= plan_.has_norms && begins_in_halves(i);
      return;
    }
    tensor = entries_.make(kept_.states[i]);
    reading_.made_rule_state = true;
  }
  std::vector<CopyBack>& copies = reading_.place.copies;
  const std::size_t copied = copies.size();
  View view = reading_.place.laid_out(tensor, name, true);
  if (!is_new && is_stored_otherwise(i, view)) {
    copies.resize(copied);
    if (memory_.dry()) return;
    view = reading_.place.laid_out(entries_.convert(kept_.states[i]), name, true);
  }
  const int code = code_of(view);
  if (code < 0) {
    set_like_param(reading_, 2 + i, view, name);
    reading_.has_halves |= dtype_bytes[static_cast<int>(reading_.item.dtypes[2 + i])] == 2;
  } else {
    reading_.item.arrays[2 + i] = data_of(view);
    reading_.item.dtypes[2 + i] = static_cast<DType>(code);
    read_codes(i, is_new);
  }
}

void States::read_average() {
  PyObject* tensor = entries_.find_or_make(kept_.ema);
  if (tensor != nullptr) {
    set_like_param(reading_, ema_array, reading_.place.laid_out(tensor, "ema", true), "ema");
  }
  if (!plan_.tail.bias_correction && entries_.at_end()) return;
  PyObject* weight = plan_.tail.bias_correction ? entries_.find_or_make(kept_.ema_weight)
                                                : entries_.find(kept_.ema_weight);
  if (weight != nullptr) clock_.weigh(weight);
}

void set_like_param(Reading& reading, int array, const View& view, const char* name) {
  const View& param = reading.place.view;
  if (!stored_with(view, param)) {
    throw Unfit{std::string(name) + " of dtype " + dtype_name(view) + " for a parameter of " +
                dtype_name(param)};
  }
  set_array(reading.item, array, view);
}

}  // namespace fastopt
