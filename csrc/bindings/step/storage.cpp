// How a parameter and its states are stored where that is more than a type (cpu/packing.h).
#include <cstdint>
#include <optional>
#include <string>

#include "bindings/item.h"
#include "bindings/step/dtensor.h"
#include "bindings/step/states.h"
#include "cpu/dropout.h"

namespace fastopt {
namespace {

// As fastopt.reference.codes has them: fewer elements, or shorter rows, are not coded.
constexpr int64_t least_coded_size = 4096, least_coded_row = 64;

// A DType, or Kept::codes, of a torch.dtype that states are stored in.
int storage_type(const py::object& dtype) {
  const std::string name = py::str(dtype);
  if (name == "torch.float32") return static_cast<int>(DType::float32);
  if (name == "torch.bfloat16") return static_cast<int>(DType::bfloat16);
  if (name == "torch.float16") return static_cast<int>(DType::float16);
  return Kept::codes;
}

// Elements in a row, the part of a parameter whose blocks begin anew.
int64_t row_size(const View& param) {
  int64_t size = 1;
  for (int k = 1; k < param.ndim; ++k) size *= param.shape[k];
  return size;
}

}  // namespace

// Whether a state that is there has another dtype than the options say, as after they have changed,
// or codes where those cannot be. Nothing else is asked of float64 and of what the kernels lack.
bool States::is_stored_otherwise(int i, const View& view) {
  const int stored = dtype_of(view), param = dtype_of(reading_.place.view);
  const bool is_code = code_of(view) >= 0;
  if (is_code && entries_.find(kept_.scales[i]) == nullptr) return false;  // refused for that
  if (param < 0 || static_cast<DType>(param) == DType::float64) return false;
  if (!is_code && (stored < 0 || static_cast<DType>(stored) == DType::float64)) return false;
  bool worth = false;
  if (plan_.wanted == StateDtype::int8) {
    const View& whole = reading_.place.view;
    worth = whole.ndim >= 2 && element_count(whole) >= least_coded_size &&
            row_size(whole) >= least_coded_row && is_contiguous(whole);
    // Of a DTensor, the whole shape and the cut count, which codes that are there have met.
    if (reading_.place.distribution) {
      if (is_code) return false;
      worth = true;
    }
  }
  const auto ask = [&] { return static_cast<signed char>(ask_stored(i)); };
  if (reading_.place.distribution && plan_.wanted == StateDtype::int8) return stored != ask();
  const auto known = [&]() -> signed char& {
    return kept_.stored_in(plan_, worth, static_cast<DType>(param), i);
  };
  signed char expected = known();
  if (expected == Kept::unasked) {
    expected = ask();  // Python, beside which another thread's step may make room for more
    known() = expected;
  }
  return expected != (is_code ? Kept::codes : stored);
}

int States::ask_stored(int i) {
  memory_.must_hold();
  return storage_type(memory_.optimizer().dtype_of_state(plan_.group, param_, kept_.states[i]));
}

bool States::begins_in_halves(int i) {
  const int param = dtype_of(reading_.place.view);
  if (static_cast<DType>(param) == DType::float64) return false;
  const int stored = ask_stored(i);
  return stored >= 0 && stored < dtype_count && dtype_bytes[stored] == 2;
}

// Masters of options or dtypes that no longer hold would be taken for those of today later on.
void States::drop_masters(PyObject* kept) {
  if (entries_.at_end()) return;
  for (PyObject* name : {kept_.param_low, kept_.master}) {
    if (name == kept || entries_.find(name) == nullptr) continue;
    entries_.drop(name);
  }
}

// A state in 8 bits has a second tensor for its blocks' scales.
void States::read_codes(int i, bool is_new) {
  const std::string name = plan_.rule->state_name(i);
  const View& param = reading_.place.view;
  if (!plan_.rule->takes_packings()) throw Unfit{name + " in 8 bits, of a rule with norms"};
  if (compute_type(reading_.item) != DType::float32) {
    throw Unfit{name + " in 8 bits for a parameter of " + dtype_name(param)};
  }
  if (!is_contiguous(param) || param.ndim == 0) {
    throw Unfit{name + " in 8 bits beside a parameter that is not contiguous"};
  }
  PyObject* scales = entries_.find_made(kept_.scales[i]);
  if (scales == nullptr) scales = entries_.find(kept_.scales[i]);
  if (scales == nullptr) {
    if (!is_new) throw py::key_error(name + "_scale");
    scales = entries_.make(kept_.scales[i]);
  }
  const int64_t row = row_size(param);
  if (row == 0) return;
  packing().row = row;
  packing().first_row = static_cast<int64_t>(first_index()) / row;
  if (reading_.place.distribution && is_dtensor(scales)) scales = memory_.hold(local_part(scales));
  packing().scales[i] = scales_of(scales);
}

float* States::scales_of(PyObject* tensor) {
  View view;
  const int64_t rows = reading_.place.view.shape[0],
                blocks = (packing().row + block_size - 1) / block_size;
  if (!memory_.look(tensor, &view) || CudaLibrary::get().device_of(view) != reading_.place.device ||
      !is_contiguous(view) || !is_aligned(view) || view.ndim != 2 || view.shape[0] != rows ||
      view.shape[1] != blocks || dtype_of(view) != static_cast<int>(DType::float32)) {
    throw Unfit{"scales of a state in 8 bits that are not float32 of shape (" +
                std::to_string(rows) + ", " + std::to_string(blocks) + ")"};
  }
  return static_cast<float*>(data_of(view));
}

// What a 16-bit parameter's group asks for behind it.
void States::read_master() {
  const bool is_bfloat = reading_.item.dtypes[0] == DType::bfloat16;
  if (!is_bfloat && reading_.item.dtypes[0] != DType::float16) return drop_masters(nullptr);
  if (plan_.rounds_at_random && is_bfloat) read_rounding();
  if (!plan_.has_master) return drop_masters(nullptr);
  PyObject* tensor = entries_.find_or_make(is_bfloat ? kept_.param_low : kept_.master);
  if (tensor == nullptr) return;
  const View view = reading_.place.laid_out(tensor, is_bfloat ? "param_low" : "master", true);
  const bool fits = is_bfloat ? view.dtype.code == kDLInt && view.dtype.bits == 16
                              : dtype_of(view) == static_cast<int>(DType::float32);
  if (!fits) throw Unfit{"its master's dtype is " + dtype_name(view)};
  packing().master = is_bfloat ? Master::low_half : Master::whole;
  packing().master_data = data_of(view);
  drop_masters(is_bfloat ? kept_.param_low : kept_.master);
}

// The seed of a parameter's random rounding and the number of the last one.
void States::read_rounding() {
  PyObject* tensor = entries_.find_or_make(kept_.rounding);
  if (tensor == nullptr) return;
  View view;
  const bool readable = memory_.look(tensor, &view);
  const bool on_device = readable && clock_.is_beside_param(view);
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
    reading_.rounding = reinterpret_cast<const uint64_t*>(numbers);
    const CudaNumber count = CudaNumber::lying(numbers + 1, CudaNumber::Type::int64);
    reading_.counts.add(CudaCounter{count, 1, 1});
  } else {
    if (reading_.place.captured) refuse_captured_number(plan_, "rounding");
    const uint64_t count = static_cast<uint64_t>(numbers[1]) + 1;
    packing().seed = static_cast<uint64_t>(numbers[0]);
    packing().offset |= count;
    reading_.counts.add(Count{numbers + 1, Count::int64, static_cast<double>(count)});
  }
}

// Where the elements of this process lie in the whole parameter; nothing if they are no range of
// it.
std::optional<uint64_t> States::find_first_index() const {
  if (!reading_.place.distribution) return 0;
  memory_.must_hold();
  const py::object index = memory_.optimizer().first_index(param_);
  if (index.is_none()) return std::nullopt;
  return index.cast<uint64_t>();
}

uint64_t States::first_index() const {
  const std::optional<uint64_t> index = find_first_index();
  if (index) return *index;
  throw Unfit{"random rounding or 8-bit states of a part that is not a range of its elements"};
}

Packing& States::packing() {
  if (!reading_.packing) reading_.packing.emplace();
  return *reading_.packing;
}

}  // namespace fastopt
