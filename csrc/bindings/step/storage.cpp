// How a parameter and its states are stored where that is more than a type (cpu/packing.h).
#include <cstdint>
#include <string>

#include "bindings/item.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/reading.h"
#include "cpu/dropout.h"

namespace fastopt {
namespace {

// As fastopt.reference.codes has them: fewer elements, or shorter rows, are not coded.
constexpr int64_t least_coded_size = 4096, least_coded_row = 64;

// A DType, or Spec::codes, of a torch.dtype that states are stored in.
int storage_type(const py::object& dtype) {
  const std::string name = py::str(dtype);
  if (name == "torch.float32") return static_cast<int>(DType::float32);
  if (name == "torch.bfloat16") return static_cast<int>(DType::bfloat16);
  if (name == "torch.float16") return static_cast<int>(DType::float16);
  return Spec::codes;
}

}  // namespace

// Whether a state that is there has another dtype than the options say, as after they have changed,
// or codes where those cannot be. Nothing else is asked of float64 and of what the kernels lack.
bool ParamReader::is_stored_otherwise(int i, const View& view) {
  const int stored = dtype_of(view), param = dtype_of(view_);
  const bool is_code = coding_of(view) != Coding::none;
  if (is_code && entries_->find(spec_.scales[i]) == nullptr) return false;  // refused for that
  if (param < 0 || static_cast<DType>(param) == DType::float64) return false;
  if (!is_code && (stored < 0 || static_cast<DType>(stored) == DType::float64)) return false;
  bool worth = false;
  if (wanted_ == StateDtype::int8) {
    int64_t row = 1;
    for (int k = 1; k < view_.ndim; ++k) row *= view_.shape[k];
    worth = view_.ndim >= 2 && element_count(view_) >= least_coded_size && row >= least_coded_row &&
            is_contiguous(view_);
    if (distribution_) {  // whose whole shape and cut count, which codes that are there have met
      if (is_code) return false;
      worth = true;
    }
  }
  const auto ask = [&] {
    must_hold();
    const py::object dtype = optimizer_.dtype_of_state(group_, param_, spec_.states[i]);
    return static_cast<signed char>(storage_type(dtype));
  };
  if (distribution_ && wanted_ == StateDtype::int8) return stored != ask();
  signed char& expected =
      spec_.stored_in(wanted_, has_master_, worth, used_, static_cast<DType>(param), i);
  if (expected == Spec::unasked) expected = ask();
  return expected != (is_code ? Spec::codes : stored);
}

// Asks for the state anew, and notes what is to be stored with the rest.
PyObject* ParamReader::convert_state(int i) {
  must_hold();
  check_no_new_state(spec_.states[i]);
  const py::dict converted = optimizer_.converted(group_, param_, spec_.states[i]);
  if (!fresh_.entries) fresh_.entries = py::dict();
  if (PyDict_Update(fresh_.entries.ptr(), converted.ptr()) != 0) throw py::error_already_set();
  return lookup(fresh_.entries.ptr(), spec_.states[i]);
}

// Masters of options or dtypes that no longer hold would be taken for those of today later on.
void ParamReader::drop_masters(PyObject* kept) {
  if (entries_->at_end()) return;
  for (PyObject* name : {Names::get().param_low, Names::get().master}) {
    if (name == kept || entries_->find(name) == nullptr) continue;
    if (!fresh_.entries) fresh_.entries = py::dict();
    fresh_.entries[py::handle(name)] = py::none();
  }
}

// A state in 8 bits has a second tensor for its blocks' scales.
void ParamReader::set_coding(int i, Coding coding, bool is_new) {
  const std::string name = rule_->state_name(i);
  if (has_norms_) throw Unfit{name + " in 8 bits, of a rule with norms"};
  if (compute_type(item_) != DType::float32) {
    throw Unfit{name + " in 8 bits for a parameter of " + dtype_name(view_)};
  }
  if (!is_contiguous(view_) || view_.ndim == 0) {
    throw Unfit{name + " in 8 bits beside a parameter that is not contiguous"};
  }
  PyObject* scales = fresh_.entries ? lookup(fresh_.entries.ptr(), spec_.scales[i]) : nullptr;
  if (scales == nullptr) scales = entries_->find(spec_.scales[i]);
  if (scales == nullptr) {
    if (!is_new) throw py::key_error(name + "_scale");
    scales = make_state(spec_.scales[i]);
  }
  int64_t row = 1;
  for (int k = 1; k < view_.ndim; ++k) row *= view_.shape[k];
  if (row == 0) return;
  packing().codings[i] = coding;
  packing().row = row;
  packing().first_row = static_cast<int64_t>(first_index()) / row;
  if (distribution_ && is_dtensor(scales)) scales = hold(local_part(scales));
  packing().scales[i] = scales_of(scales);
}

float* ParamReader::scales_of(PyObject* tensor) {
  View view;
  const int64_t rows = view_.shape[0], blocks = (packing().row + block_size - 1) / block_size;
  if (!look(tensor, &view) || cuda_.device_of(view) != device_ || !is_contiguous(view) ||
      !is_aligned(view) || view.ndim != 2 || view.shape[0] != rows || view.shape[1] != blocks ||
      dtype_of(view) != static_cast<int>(DType::float32)) {
    throw Unfit{"scales of a state in 8 bits that are not float32 of shape (" +
                std::to_string(rows) + ", " + std::to_string(blocks) + ")"};
  }
  return static_cast<float*>(data_of(view));
}

// What a 16-bit parameter's group asks for behind it.
void ParamReader::read_master() {
  const bool is_bfloat = item_.dtypes[0] == DType::bfloat16;
  if (!is_bfloat && item_.dtypes[0] != DType::float16) return drop_masters(nullptr);
  if (rounds_at_random_ && is_bfloat) read_rounding();
  if (!has_master_) return drop_masters(nullptr);
  PyObject* tensor = find_or_make(is_bfloat ? Names::get().param_low : Names::get().master);
  if (tensor == nullptr) return;
  const View view = laid_out(tensor, is_bfloat ? "param_low" : "master", true);
  const bool fits = is_bfloat ? view.dtype.code == kDLInt && view.dtype.bits == 16
                              : dtype_of(view) == static_cast<int>(DType::float32);
  if (!fits) throw Unfit{"its master's dtype is " + dtype_name(view)};
  packing().master = is_bfloat ? Master::low_half : Master::whole;
  packing().master_data = data_of(view);
  item_.dtypes[0] = DType::float32;
  drop_masters(is_bfloat ? Names::get().param_low : Names::get().master);
}

// The seed of a parameter's random rounding and the number of the last one.
void ParamReader::read_rounding() {
  PyObject* tensor = find_or_make(Names::get().rounding);
  if (tensor == nullptr) return;
  View view;
  const bool readable = look(tensor, &view);
  const bool on_device = readable && is_beside_param(view, false);
  if (!readable || (!on_device && !on_cpu(view)) || view.dtype.code != kDLInt ||
      view.dtype.bits != 64 || element_count(view) != 2 || !is_contiguous(view) ||
      !is_aligned(view)) {
    throw Unfit{"its state's rounding is no int64 tensor of a seed and a count"};
  }
  int64_t* const numbers = static_cast<int64_t*>(data_of(view));
  packing().master = Master::stochastic;
  packing().offset = static_cast<uint64_t>(RandomDomain::rounding) << offset_bits;
  packing().index = first_index();
  if (on_device) {
    rounding_ = reinterpret_cast<const uint64_t*>(numbers);
    const CudaNumber count = CudaNumber::lying(numbers + 1, CudaNumber::Type::int64);
    scratch_.cuda.counters.push_back({{count, 1, 1}, device_});
  } else {
    check_not_captured("rounding");
    const uint64_t count = static_cast<uint64_t>(numbers[1]) + 1;
    packing().seed = static_cast<uint64_t>(numbers[0]);
    packing().offset |= count;
    scratch_.counts.push_back({numbers + 1, Scratch::Count::int64, static_cast<double>(count)});
  }
  item_.dtypes[0] = DType::float32;
}

// Where the elements of this process lie in the whole parameter; nothing if they are no range of
// it.
std::optional<uint64_t> ParamReader::find_first_index() const {
  if (!distribution_) return 0;
  must_hold();
  const py::object index = optimizer_.first_index(param_);
  if (index.is_none()) return std::nullopt;
  return index.cast<uint64_t>();
}

uint64_t ParamReader::first_index() const {
  const std::optional<uint64_t> index = find_first_index();
  if (index) return *index;
  throw Unfit{"random rounding or 8-bit states of a part that is not a range of its elements"};
}

// States in 16 bits round by an element's place in the whole parameter; where the elements are no
// range of it, by that in this process.
void ParamReader::set_rounding(const CudaNumber& step) {
  item_.rounding.first = static_cast<int64_t>(find_first_index().value_or(0));
  if (device_ == cpu_device) item_.rounding.dither = half_dither_at(step.value);
}

const HalfDither* ParamReader::half_dither_at(double step) {
  if (scratch_.half_dithers.empty() || step != last_half_dither_) {
    make_dither(step, scratch_.half_dithers.emplace_back());
    last_half_dither_ = step;
  }
  return &scratch_.half_dithers.back();
}

// Parameters at the same step share one.
const Dither* ParamReader::dither_at(double step) {
  if (scratch_.dithers.empty() || step != last_dither_) {
    make_dither(step, scratch_.dithers.emplace_back());
    last_dither_ = step;
  }
  return &scratch_.dithers.back();
}

Packing& ParamReader::packing() {
  if (packing_ == nullptr) packing_ = &scratch_.packings.emplace_back();
  item_.packing = packing_;
  return *packing_;
}

}  // namespace fastopt
