#include "bindings/dropout.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "bindings/checks.h"
#include "bindings/cuda.h"
#include "bindings/held.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/dropout.h"
#include "cpu/float_mode.h"
#include "cpu/kernel.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

// ---- numbers
double probability(py::handle object) {
  constexpr const char* accepted = "a number from 0 to 1";
  const double p = number(object, "p", accepted);
  if (!(p >= 0 && p <= 1)) {
    throw py::value_error(std::string("p: expected ") + accepted + ", got " + text(object));
  }
  return p;
}

// A whole number in [low, high), or [-2^63, 2^64) where `wraps`, in two's complement.
uint64_t whole(py::handle object, const char* name, const char* accepted, uint64_t end,
               bool wraps) {
  const auto message = [&] {
    return std::string(name) + ": expected " + accepted + ", got " + text(object);
  };
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    take_refusal();
    throw py::type_error(message());
  }
  int overflow = 0;
  const long long narrow = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  uint64_t value = static_cast<uint64_t>(narrow);
  if (overflow > 0 && wraps) {
    value = PyLong_AsUnsignedLongLong(index.ptr());
    if (PyErr_Occurred()) {
      PyErr_Clear();
      throw py::value_error(message());
    }
    return value;
  }
  if (overflow != 0 || (!wraps && (narrow < 0 || value >= end))) throw py::value_error(message());
  return value;
}

// A whole number that lies on this CUDA device: a tensor of one int64; nullptr for anything else.
const uint64_t* whole_on(py::handle object, int device) {
  View view;
  if (device == cpu_device || !TorchReader::get().read(object.ptr(), &view)) return nullptr;
  const bool is_one = view.dtype.code == kDLInt && view.dtype.bits == 64 && view.dtype.lanes == 1 &&
                      element_count(view) == 1;
  if (!is_one || CudaLibrary::get().device_of(view) != device) return nullptr;
  return static_cast<const uint64_t*>(data_of(view));
}

// What decides the draws, read from Python.
struct Draw {
  py::handle p, seed, offset, index;

  // For a call on this device, where a seed or an offset may lie, too.
  void put(CudaDropout& call, int device) const {
    call.threshold = dropout_threshold(probability(p));
    call.scalars.scale = dropout_scale(call.threshold);
    call.seed_at = whole_on(seed, device);
    call.offset_at = whole_on(offset, device);
    call.offset = static_cast<uint64_t>(RandomDomain::dropout) << offset_bits;
    if (call.seed_at == nullptr) {
      call.seed = whole(seed, "seed", "a whole number from -2**63 to 2**64 - 1", 0, true);
    }
    if (call.offset_at == nullptr) {
      call.offset |= whole(offset, "offset", "a whole number from 0 to 2**56 - 1",
                           uint64_t{1} << offset_bits, false);
    }
    call.index = whole(index, "index", accepted_index, end_of_index, false);
  }

  // The draws of `count` elements must have indices, too.
  void check_end(const DropoutCall& call, int64_t count) const {
    if (end_of_index - call.index <= static_cast<uint64_t>(count)) {
      throw py::value_error(std::string("index: expected ") + accepted_index + ", got " +
                            text(index) + " for " + std::to_string(count) + " draws");
    }
  }

  static constexpr uint64_t end_of_index = uint64_t{1} << 63;
  static constexpr const char* accepted_index =
      "a whole number >= 0 such that all draws have indices below 2**63";
};

// ---- arrays

// An array on x's device.
void check_memory(const Array& array, const std::string& name, const Array& x, bool written) {
  check_same_device(array, name, x, "x");
  check_layout(array, name, written);
}

// An array of x's dtype.
void check_like(const Array& array, const std::string& name, const Array& x) {
  check_dtype(array, name);
  if (dtype_of(array.view()) != dtype_of(x.view())) {
    throw py::type_error(name + ": expected " + dtype_name(x.view()) + " like x, got " +
                         dtype_name(array.view()));
  }
}

void check_shape(const Array& array, const std::string& name, const Array& x) {
  if (!same_shape(array.view(), x.view())) {
    throw py::value_error(name + ": expected shape " + shape_text(x.view()) + " like x, got " +
                          shape_text(array.view()));
  }
}

void check_packed(const Array& array, const std::string& name, int64_t count) {
  const DLTensor& view = array.view();
  if (view.dtype.code != kDLUInt || view.dtype.bits != 8 || view.dtype.lanes != 1) {
    throw py::type_error(name + ": expected uint8 (packed bits), got " + array.dtype());
  }
  if (element_count(view) != (count + 7) / 8) {
    throw py::value_error(name + ": expected " + std::to_string((count + 7) / 8) + " bytes for " +
                          std::to_string(count) + " elements, got " +
                          std::to_string(element_count(view)));
  }
}

const char* begin_of(const Array& array) { return static_cast<const char*>(data_of(array.view())); }
const char* end_of(const Array& array) {
  return begin_of(array) + element_count(array.view()) * element_bytes(array.view());
}

// `written` shares no memory with `other`, or, if that is allowed, all of it.
void check_apart(const Array& written, const std::string& name, const Array& other,
                 const std::string& other_name, bool may_be_same) {
  if (begin_of(written) >= end_of(other) || begin_of(other) >= end_of(written)) return;
  if (may_be_same && begin_of(written) == begin_of(other) && end_of(written) == end_of(other)) {
    return;
  }
  throw py::value_error(name + ": expected " +
                        (may_be_same ? other_name + " itself or memory of its own"
                                     : std::string("memory of its own")) +
                        ", got memory shared with " + other_name);
}

// ---- calls

// The arrays of one call. Each is checked by itself as it is added, and against those before it.
class Arrays {
 public:
  Arrays(py::handle x, py::handle out) : x_(held_.take(x, "x")), out_(held_.take(out, "out")) {
    check_dtype(x_, "x");
    check_memory(x_, "x", x_, false);
    check_like(out_, "out", x_);
    check_shape(out_, "out", x_);
    check_memory(out_, "out", x_, true);
    check_apart(out_, "out", x_, "x", true);
    call.x = data_of(x_.view());
    call.out = data_of(out_.view());
    call.size = element_count(x_.view());
  }

  void add_bias(py::handle object) {
    if (object.is_none()) return;
    const Array& bias = *(bias_ = &held_.take(object, "bias"));
    const DLTensor& x = x_.view();
    check_like(bias, "bias", x_);
    const int64_t columns = x.ndim > 0 ? x.shape[x.ndim - 1] : 1;
    if (bias.view().ndim != 1 || bias.view().shape[0] != columns) {
      throw py::value_error("bias: expected shape (" + std::to_string(columns) +
                            ",) like x's last dimension, got " + shape_text(bias.view()));
    }
    check_memory(bias, "bias", x_, false);
    check_apart(out_, "out", bias, "bias", false);
    call.bias = data_of(bias.view());
    call.columns = columns;
  }

  void add_residual(py::handle object) {
    if (object.is_none()) return;
    const Array& residual = *(residual_ = &held_.take(object, "residual"));
    check_like(residual, "residual", x_);
    check_shape(residual, "residual", x_);
    check_memory(residual, "residual", x_, false);
    check_apart(out_, "out", residual, "residual", true);
    call.residual = data_of(residual.view());
  }

  void add_masks(py::handle mask, py::handle mask_out) {
    if (!mask.is_none()) {
      const Array& bits = *(mask_ = &held_.take(mask, "mask"));
      check_packed(bits, "mask", call.size);
      check_memory(bits, "mask", x_, false);
      check_apart(out_, "out", bits, "mask", false);
      call.mask = static_cast<const unsigned char*>(data_of(bits.view()));
    }
    if (!mask_out.is_none()) {
      const Array& bits = *(mask_out_ = &held_.take(mask_out, "mask_out"));
      check_packed(bits, "mask_out", call.size);
      check_memory(bits, "mask_out", x_, true);
      const auto apart_from = [&](const Array* other, const char* name) {
        if (other) check_apart(bits, "mask_out", *other, name, false);
      };
      check_apart(bits, "mask_out", x_, "x", false);
      check_apart(bits, "mask_out", out_, "out", false);
      apart_from(bias_, "bias");
      apart_from(residual_, "residual");
      apart_from(mask_, "mask");
      call.mask_out = static_cast<unsigned char*>(data_of(bits.view()));
    }
  }

  int device() const { return CudaLibrary::get().device_of(x_.view()); }

  // `on_cpu` is one of cpu/dropout.h; on a CUDA device, there is one kernel for all.
  template <class Run>
  void run(Run on_cpu, int threads) {
    held_.settle(device() != cpu_device);
    if (call.size == 0) return;
    const DType dtype = static_cast<DType>(dtype_of(x_.view()));
    if (device() != cpu_device) return CudaLibrary::get().dropout(call, dtype, device());
    held_.run([&] { on_cpu(call, dtype, threads); });
  }

  CudaDropout call;

 private:
  Held held_;
  const Array &x_, &out_;
  const Array *bias_ = nullptr, *residual_ = nullptr, *mask_ = nullptr, *mask_out_ = nullptr;
};

void dropout(py::handle x, py::handle out, py::handle p, py::handle seed, py::handle offset,
             py::handle index, int threads, py::handle mask, py::handle mask_out, py::handle scale,
             bool relu, bool fresh) {
  FloatMode mode;
  Arrays arrays(x, out);
  const Draw draw{p, seed, offset, index};
  draw.put(arrays.call, arrays.device());
  draw.check_end(arrays.call, arrays.call.size);
  if (!scale.is_none()) {
    constexpr const char* accepted = "a number > 0 within float32's range or None";
    const double value = arrays.call.scalars.scale = number(scale, "scale", accepted);
    if (!(value > 0 && value < 0x1p127)) {
      throw py::value_error(std::string("scale: expected ") + accepted + ", got " + text(scale));
    }
  }
  if (relu) arrays.call.form = DropoutForm::relu;
  arrays.call.streams = !fresh;
  arrays.add_masks(mask, mask_out);
  arrays.run(run_dropout, threads);
}

void bias_dropout_add(py::handle x, py::handle bias, py::handle residual, py::handle out,
                      py::handle p, py::handle seed, py::handle offset, py::handle index,
                      int threads, py::handle mask, py::handle mask_out) {
  FloatMode mode;
  Arrays arrays(x, out);
  const Draw draw{p, seed, offset, index};
  draw.put(arrays.call, arrays.device());
  draw.check_end(arrays.call, arrays.call.size);
  arrays.add_bias(bias);
  arrays.add_residual(residual);
  arrays.call.form = bias.is_none()
                         ? residual.is_none() ? DropoutForm::plain : DropoutForm::residual
                     : residual.is_none() ? DropoutForm::bias
                                          : DropoutForm::bias_residual;
  arrays.add_masks(mask, mask_out);
  arrays.run(run_dropout, threads);
}

double alpha_dropout(py::handle x, py::handle out, py::handle p, py::handle seed, py::handle offset,
                     py::handle index, int threads, py::handle mask_out) {
  FloatMode mode;
  Arrays arrays(x, out);
  CudaDropout& call = arrays.call;
  const Draw draw{p, seed, offset, index};
  draw.put(call, arrays.device());
  draw.check_end(call, call.size);
  if (call.threshold > 0 && call.threshold < keep_all) {  // else all zeros, or x: the plain form
    call.form = DropoutForm::alpha;
    call.scalars = alpha_scalars(call.threshold);
  }
  arrays.add_masks(py::none(), mask_out);
  arrays.run(run_dropout, threads);
  return call.scalars.scale;
}

void dropout_rows(py::handle x, py::handle out, py::handle inner, py::handle p, py::handle seed,
                  py::handle offset, py::handle index, int threads) {
  FloatMode mode;
  Arrays arrays(x, out);
  CudaDropout& call = arrays.call;
  const Draw draw{p, seed, offset, index};
  draw.put(call, arrays.device());
  constexpr const char* accepted = "a whole number >= 1";
  call.inner = static_cast<int64_t>(whole(inner, "inner", accepted, Draw::end_of_index, false));
  if (call.inner == 0) {
    throw py::value_error(std::string("inner: expected ") + accepted + ", got " + text(inner));
  }
  draw.check_end(call, call.size / call.inner + (call.size % call.inner != 0));
  arrays.run(run_dropout_rows, threads);
}

void dropout_mask(py::handle out, py::handle count, py::handle p, py::handle seed,
                  py::handle offset, py::handle index, int threads) {
  FloatMode mode;
  CudaDropout call;
  Held held;
  const Array& array = held.take(out, "out");
  const int device = device_with_kernels(array, "out");
  const Draw draw{p, seed, offset, index};
  draw.put(call, device);
  call.size =
      static_cast<int64_t>(whole(count, "count", "a whole number >= 0", Draw::end_of_index, false));
  draw.check_end(call, call.size);
  const DLTensor& view = array.view();
  const bool bytes = view.dtype.code == kDLBool && view.dtype.bits == 8 && view.dtype.lanes == 1;
  if (!bytes) {
    check_packed(array, "out", call.size);
    call.mask_out = static_cast<unsigned char*>(data_of(view));
  } else if (element_count(view) != call.size) {
    throw py::value_error("out: expected " + std::to_string(call.size) + " elements, got " +
                          std::to_string(element_count(view)));
  }
  check_layout(array, "out", true);
  held.settle(device != cpu_device);
  call.out = data_of(view);
  if (call.size == 0) return;
  const MaskKind kind = bytes ? MaskKind::bytes : MaskKind::bits;
  if (device != cpu_device) return CudaLibrary::get().dropout_mask(call, kind, device);
  held.run([&] { run_dropout_mask(call, kind, threads); });
}

py::tuple philox(uint64_t seed, uint64_t offset, uint64_t block) {
  uint32_t words[4];
  (*target().philox)(seed, offset, block, words);
  return py::make_tuple(words[0], words[1], words[2], words[3]);
}

}  // namespace

void define_dropout(py::module_& m) {
  const py::none none;
  m.def("dropout", &dropout, "x"_a, "out"_a, "p"_a, "seed"_a, "offset"_a, "index"_a, "threads"_a,
        "mask"_a = none, "mask_out"_a = none, "scale"_a = none, "relu"_a = false, "fresh"_a = false,
        "out = keep ? scale x : 0; with relu, keep and x > 0.");
  m.def("bias_dropout_add", &bias_dropout_add, "x"_a, "bias"_a, "residual"_a, "out"_a, "p"_a,
        "seed"_a, "offset"_a, "index"_a, "threads"_a, "mask"_a = none, "mask_out"_a = none,
        "out = residual + (keep ? scale (x + bias) : 0).");
  m.def("alpha_dropout", &alpha_dropout, "x"_a, "out"_a, "p"_a, "seed"_a, "offset"_a, "index"_a,
        "threads"_a, "mask_out"_a = none, "out = keep ? a x + b : c; returns a.");
  m.def("dropout_rows", &dropout_rows, "x"_a, "out"_a, "inner"_a, "p"_a, "seed"_a, "offset"_a,
        "index"_a, "threads"_a, "Dropout by one draw for `inner` elements each.");
  m.def("dropout_mask", &dropout_mask, "out"_a, "count"_a, "p"_a, "seed"_a, "offset"_a, "index"_a,
        "threads"_a, "Which elements are kept: packed bits, or bools.");
  m.def("philox", &philox, "seed"_a, "offset"_a, "block"_a,
        "One block of Philox4x32-10 on the target in use, of a 64-bit offset, domain and all.");
}

}  // namespace fastopt
