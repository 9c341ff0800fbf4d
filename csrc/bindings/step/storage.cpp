// How a parameter and its states are stored where that is more than a type (cpu/packing.h).
#include <cstdint>
#include <string>

#include "bindings/item.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/reading.h"
#include "cpu/dropout.h"

namespace fastopt {

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
  PyObject* scales = entries_->find(spec_.scales[i]);
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
  if (!is_bfloat && item_.dtypes[0] != DType::float16) return;
  if (rounds_at_random_ && is_bfloat) return read_rounding();
  if (!has_master_) return;
  PyObject* tensor = find_or_make(is_bfloat ? Names::get().param_low : Names::get().master);
  if (tensor == nullptr) return;
  const View view = laid_out(tensor, is_bfloat ? "param_low" : "master", true);
  const bool fits = is_bfloat ? view.dtype.code == kDLInt && view.dtype.bits == 16
                              : dtype_of(view) == static_cast<int>(DType::float32);
  if (!fits) throw Unfit{"its master's dtype is " + dtype_name(view)};
  packing().master = is_bfloat ? Master::low_half : Master::whole;
  packing().master_data = data_of(view);
  item_.dtypes[0] = DType::float32;
}

// The seed of a parameter's random rounding and the number of the last one.
void ParamReader::read_rounding() {
  PyObject* tensor = find_or_make(Names::get().rounding);
  if (tensor == nullptr) return;
  View view;
  const bool readable = look(tensor, &view);
  const bool on_device = readable && is_beside_param(view);
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
    scratch_.cuda.counters.push_back({count, device_});
  } else {
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
  const py::object index = optimizer_.attr("_first_index")(py::handle(param_));
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
