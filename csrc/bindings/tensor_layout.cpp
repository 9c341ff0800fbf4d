#include "bindings/tensor_layout.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "bindings/probing.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

constexpr const char* dtype_names[dtype_count] = {"float32", "float64", "bfloat16", "float16"};

uint64_t address(const py::object& object, const char* attribute) {
  return object.attr(attribute).cast<uint64_t>();
}

py::object zeros(const py::object& torch, py::tuple shape, const char* dtype = "float32") {
  return torch.attr("zeros")(shape, "dtype"_a = torch.attr(dtype), "device"_a = "cpu");
}

bool alike(const DLTensor& a, const DLTensor& b) {
  return a.data == b.data && a.device.device_type == b.device.device_type &&
         a.device.device_id == b.device.device_id && a.ndim == b.ndim &&
         a.dtype.code == b.dtype.code && a.dtype.bits == b.dtype.bits &&
         a.dtype.lanes == b.dtype.lanes && a.byte_offset == b.byte_offset &&
         std::equal(a.shape, a.shape + a.ndim, b.shape) &&
         std::equal(a.strides, a.strides + a.ndim, b.strides);
}

}  // namespace

TensorLayout::TensorLayout(Ask ask) {
  known_ = probe_torch(
      [&](const py::object& torch) { return find(torch.ptr()) && confirm(torch.ptr(), ask); });
}

// Each pointer is compared with what torch says of it before anything is read through it.
bool TensorLayout::find(PyObject* module) {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  py::object probe =
      zeros(torch, py::make_tuple(4096))
          .attr("as_strided")(py::make_tuple(3, 5, 7), py::make_tuple(701, 101, 11), 23);
  if (!py::type::of(probe).is(torch.attr("Tensor")))
    return false;  // under a mode that makes others
  const auto impl_of = [](const py::object& tensor) {
    return reinterpret_cast<const Object*>(tensor.ptr())->impl;
  };
  const Impl* impl = impl_of(probe);
  py::object storage = probe.attr("untyped_storage")();
  if (reinterpret_cast<uint64_t>(impl) != address(probe, "_cdata") ||
      reinterpret_cast<uint64_t>(impl->storage) != address(storage, "_cdata") ||
      reinterpret_cast<uint64_t>(impl->storage->data) !=
          storage.attr("data_ptr")().cast<uint64_t>())
    return false;

  const uint64_t extent[] = {3, 3, 5, 7, 0, 0, 701, 101, 11, 0, 0, 23, 105};
  const auto is_extent = [&](int at) {
    const uint64_t* here = words(impl) + at;
    return std::equal(extent, extent + 4, here) && std::equal(extent + 6, extent + 9, here + 6) &&
           std::equal(extent + 11, extent + 13, here + 11);
  };
  for (extent_at_ = 5; !is_extent(extent_at_); ++extent_at_) {
    if (extent_at_ == 10) return false;
  }

  const auto extent_of = [&](const py::object& tensor) {
    return *reinterpret_cast<const Extent*>(words(impl_of(tensor)) + extent_at_);
  };
  // Of a storage on the CPU torch keeps no index, which tells the index from what lies around it.
  if (impl->storage->device_type != 0 || impl->storage->device_index != -1) return false;
  const py::object plain = zeros(torch, py::make_tuple(2));
  cpu_keys_ = keys_of(plain.ptr());
  std::vector<uint16_t> numbers;
  for (const char* name : dtype_names) {
    numbers.push_back(extent_of(zeros(torch, py::make_tuple(2), name)).dtype);
  }
  std::copy_n(numbers.begin(), dtype_count, dtypes_);
  for (const char* other : {"int16", "int32", "int64", "complex64", "bool"}) {
    numbers.push_back(extent_of(zeros(torch, py::make_tuple(2), other)).dtype);
  }
  std::sort(numbers.begin(), numbers.end());
  if (std::adjacent_find(numbers.begin(), numbers.end()) != numbers.end()) return false;
  const py::object complex = zeros(torch, py::make_tuple(2), "complex64");
  const py::object unlike[] = {
      complex.attr("conj")(),
      complex.attr("conj")().attr("imag"),  // lazily negated
      plain.attr("to_sparse")(),
      torch.attr("empty")(2, "device"_a = "meta"),
  };
  return std::none_of(std::begin(unlike), std::end(unlike),
                      [&](const py::object& tensor) { return keys_of(tensor.ptr()) == cpu_keys_; });
}

bool TensorLayout::reads_alike(PyObject* tensor, Ask ask) const {
  DLTensor mine, theirs;
  return read(tensor, &mine) && ask(tensor, &theirs) && alike(mine, theirs);
}

// An empty tensor there allocates nothing, also while a graph is captured.
bool TensorLayout::learn(PyObject* tensor, Ask ask) {
  if (!known_) return false;
  const auto met = py::reinterpret_borrow<py::object>(tensor);
  const bool learned = probe_torch([&](const py::object& torch) {
    const py::object empty = torch.attr("empty")(0, "device"_a = met.attr("device"));
    if (!py::type::of(empty).is(torch.attr("Tensor"))) return false;  // under a mode
    cuda_keys_ = keys_of(empty.ptr());
    const py::object detached = met.attr("detach")();
    const py::object strided =
        detached.attr("as_strided")(py::make_tuple(1, 1), py::make_tuple(7, 3));
    return cuda_keys_ != cpu_keys_ && reads_alike(tensor, ask) && reads_alike(strided.ptr(), ask);
  });
  if (!learned) cuda_keys_ = 0;
  return learned;
}

bool TensorLayout::confirm(PyObject* module, Ask ask) const {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  for (const char* dtype : dtype_names) {
    const py::object image = zeros(torch, py::make_tuple(2, 3, 4, 5), dtype);
    const py::object six = zeros(torch, py::make_tuple(1, 2, 1, 2, 1, 2), dtype);
    if (DLTensor any; read(six.ptr(), &any)) return false;
    const py::object pair = zeros(torch, py::make_tuple(2), dtype);
    const py::object lazy = torch.attr("_lazy_clone")(pair);  // both now copy before they write
    const py::object others[] = {
        zeros(torch, py::make_tuple(), dtype),
        zeros(torch, py::make_tuple(7), dtype),
        image,
        image.attr("contiguous")("memory_format"_a = torch.attr("channels_last")),
        image.attr("permute")(3, 1, 0, 2),
        image[py::make_tuple(1, 2)].attr("t")(),
        image.attr("narrow")(2, 1, 2),
        image.attr("unsqueeze")(0).attr("expand")(3, 2, 3, 4, 5),
        torch.attr("nn").attr("Parameter")(image).attr("detach")(),
    };
    for (const py::object& tensor : others) {
      if (!reads_alike(tensor.ptr(), ask)) return false;
    }
    if (DLTensor any; read(lazy.ptr(), &any) || read(pair.ptr(), &any)) return false;
  }
  return true;
}

}  // namespace fastopt
