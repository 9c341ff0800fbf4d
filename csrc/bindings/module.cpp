// The extension module fastopt._C: tensors in, one call, no mathematics.
#ifdef _OPENMP
#include <omp.h>
#endif
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/apply.h"
#include "bindings/cuda.h"
#include "bindings/dropout.h"
#include "bindings/facts.h"
#include "bindings/lbfgs.h"
#include "bindings/program_rule.h"
#include "bindings/step/step.h"
#include "bindings/tensor.h"
#include "bindings/watchers.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

py::dict cpu_targets() {
  py::dict all;
  for (const fastopt::Target& target : fastopt::targets()) {
    all[target.name] =
        py::dict("supported"_a = target.supported(), "description"_a = target.description);
  }
  return all;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  // An unknown FASTOPT_CPU_TARGET fails the import, not the first step; and before any type is
  // registered, so that the import can be repeated.
  fastopt::target();
  fastopt::TorchReader::get();
  m.doc() = "fastopt's kernels. Internal: use fastopt.optim and fastopt.kernels.";
  m.def("step", &fastopt::step, "rule"_a, "optimizer"_a, "threads"_a, "grad_scale"_a, "found_inf"_a,
        "norm"_a = py::none(), "One step of a fastopt.optim optimizer.");
  m.def("left_over", &fastopt::left_over, "rule"_a, "optimizer"_a,
        "What a step would leave to torch: (group, parameter, reason) each.");
  m.def("apply", &fastopt::apply, "rule"_a, "arrays"_a, "steps"_a, "options"_a, "indexed"_a,
        "threads"_a, "names"_a = std::array<std::string, 2>{"param", "grad"},
        "grad_scale"_a = py::none(), "copy_to"_a = py::none(),
        "Apply a rule in place to whole arrays.");
  m.def(
      "torch_is_watched", [] { return fastopt::torch_watchers().of_operations; },
      "Whether a mode or a trace of torch is to see its operations.");
  m.def("call_with_grads", &fastopt::call_with_grads, "params"_a, "grads"_a, "function"_a,
        "Call a function while parameters have other gradients.");
  fastopt::define_facts(m);
  fastopt::define_dropout(m);
  fastopt::define_lbfgs(m);
  fastopt::define_rules(m);
  m.def("cpu_targets", &cpu_targets, "Every CPU target of this build, the best first.");
  m.def("cpu_target", [] { return fastopt::target().name; }, "The CPU target in use.");
  m.def("set_cpu_target", &fastopt::set_target, "name"_a,
        "Use another CPU target; ValueError if this build or machine lacks it.");
  m.def(
      "use_tensor_layout",
      [](bool wanted) { return fastopt::TorchReader::get().use_layout(wanted); }, "wanted"_a,
      "Read tensors where torch keeps them, or through DLPack; tells which of the two it is now.");
  m.def(
      "reads_in_place",
      [](py::handle tensor) { return fastopt::TorchReader::get().reads_in_place(tensor.ptr()); },
      "tensor"_a, "Whether a tensor is read where torch keeps it.");
  m.def(
      "knows_autograd_layout",
      [] {
        const fastopt::TorchReader& torch = fastopt::TorchReader::get();
        return std::make_tuple(torch.finds_grads(), torch.counts_writes(),
                               torch.counts_references());
      },
      "Whether gradients are read, writes counted, and storages held, where torch keeps them.");
  m.def("in_forked_child", &fastopt::in_forked_child,
        "Whether OpenMP's threads were left behind in a parent process.");
  m.def(
      "max_threads",
      [] {
#ifdef _OPENMP
        return omp_get_max_threads();
#else
        return 0;
#endif
      },
      "The thread count of the OpenMP runtime that this extension is bound to; 0 without one.");
  m.def(
      "load_cuda",
      [](const std::string& path, bool takes_cpu) {
        fastopt::CudaLibrary::get().load(path, takes_cpu);
      },
      "path"_a, "takes_cpu"_a = false,
      "Use the CUDA library in a file; for tests, take CPU tensors for CUDA's. '': look again.");
  m.def(
      "cuda_trouble",
      [](std::optional<int> device) -> py::object {
        fastopt::CudaLibrary& cuda = fastopt::CudaLibrary::get();
        const bool runs = device ? cuda.runs_on(*device) : cuda.loaded();
        return runs ? py::object(py::none()) : py::str(cuda.trouble());
      },
      "device"_a = py::none(),
      "Why there are no kernels for CUDA tensors, or for a device's; None if there are.");
}
