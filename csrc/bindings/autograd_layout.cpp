#include "bindings/autograd_layout.h"

#include <pybind11/pybind11.h>

#include <algorithm>

#include "bindings/probing.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

using Impl = TensorLayout::Impl;

constexpr int first_word = 3;  // after the storage

py::object zeros(const py::object& torch, bool requires_grad = false) {
  return torch.attr("zeros")(2, "device"_a = "cpu", "requires_grad"_a = requires_grad);
}

const Impl* impl_of(const py::object& tensor) { return TensorLayout::impl_of(tensor.ptr()); }

uint64_t word(const py::object& tensor, int at) { return TensorLayout::words(impl_of(tensor))[at]; }

uint64_t address(const py::object& tensor) { return tensor.attr("_cdata").cast<uint64_t>(); }

// The one word of [first_word, end) that is so; 0 if there are none or several.
template <class Condition>
int find_word(int end, Condition condition) {
  int found = 0;
  for (int at = first_word; at < end; ++at) {
    if (!condition(at)) continue;
    if (found != 0) return 0;
    found = at;
  }
  return found;
}

}  // namespace

AutogradLayout::AutogradLayout(const TensorLayout& tensors) {
  if (!tensors.known()) return;
  const int end = tensors.extent_at();
  const bool probed = probe_torch([&](const py::object& torch) {
    knows_versions_ = find_versions(torch.ptr(), end);
    knows_grads_ = find_object(torch.ptr(), end) && find_grads(torch.ptr(), end);
    return true;
  });
  if (!probed) knows_versions_ = knows_grads_ = false;
}

bool AutogradLayout::find_object(PyObject* module, int end) {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  const py::object tensor = zeros(torch), other = zeros(torch);
  const auto is_object = [](const py::object& it, int at) {
    return word(it, at) == reinterpret_cast<uint64_t>(it.ptr());
  };
  object_at_ =
      find_word(end, [&](int at) { return is_object(tensor, at) && is_object(other, at); });
  return object_at_ != 0;
}

// What a tensor has once it requires a gradient, and nothing before, is a place of autograd's. Its
// gradient is what becomes another there when it gets one, which is the one that torch tells.
bool AutogradLayout::find_grads(PyObject* module, int end) {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  const py::object plain = zeros(torch), param = zeros(torch, true), other = zeros(torch, true);
  autograd_at_ = find_word(end, [&](int at) {
    return word(plain, at) == 0 && word(param, at) != 0 && word(other, at) != 0 &&
           word(param, at) != word(other, at);
  });
  if (autograd_at_ == 0) return false;
  const auto autograd_of = [&](const py::object& tensor) {
    return at<const Impl* const*>(impl_of(tensor), autograd_at_);
  };
  const py::object grad = zeros(torch), second = zeros(torch);
  constexpr int words = 12;  // torch::autograd::AutogradMeta is longer
  const Impl* before[words];
  std::copy_n(autograd_of(param), words, before);
  param.attr("grad") = grad;
  const auto is_grad = [&](int at) {
    return reinterpret_cast<uint64_t>(autograd_of(param)[at]) == address(grad);
  };
  for (grad_at_ = 1; !is_grad(grad_at_); ++grad_at_) {
    if (grad_at_ == words - 2) return false;
  }
  no_grad_ = before[grad_at_];

  const Impl* found = nullptr;
  const auto finds = [&](const py::object& tensor, const Impl* expected) {
    return find_grad(impl_of(tensor), &found) && found == expected;
  };
  if (!finds(param, impl_of(grad)) || !finds(other, nullptr) || !finds(plain, nullptr))
    return false;
  other.attr("grad") = second;
  param.attr("grad") = py::none();
  if (!finds(other, impl_of(second)) || !finds(param, nullptr)) return false;
  return !find_grad(impl_of(other.attr("mul")(2)), &found);  // no leaf
}

// Tensors that are one memory to autograd, as one and what it is detached to, share what counts
// their writes.
bool AutogradLayout::find_versions(PyObject* module, int end) {
  const auto torch = py::reinterpret_borrow<py::object>(module);
  const py::object tensor = zeros(torch), other = zeros(torch);
  const py::object detached = tensor.attr("detach")();
  version_at_ = find_word(end, [&](int at) {
    return word(tensor, at) != 0 && word(tensor, at) == word(detached, at) &&
           word(tensor, at) != word(other, at);
  });
  if (version_at_ == 0) return false;
  const py::object written = torch.attr("autograd").attr("graph").attr("increment_version");
  const auto counts = [&](const py::object& it, uint32_t number) {
    return at<const Version*>(impl_of(it), version_at_)->number == number &&
           it.attr("_version").cast<uint32_t>() == number;
  };
  if (!counts(tensor, 0)) return false;
  for (int i = 0; i < 300; ++i) written(tensor);
  if (!counts(tensor, 300) || !counts(detached, 300) || !counts(other, 0)) return false;
  bump(version_of(impl_of(tensor)));
  return counts(detached, 301) && counts(other, 0);
}

}  // namespace fastopt
