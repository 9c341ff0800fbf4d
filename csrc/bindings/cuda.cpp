#include "bindings/cuda.h"

#include <dlfcn.h>

#include <algorithm>
#include <stdexcept>

#include "bindings/tensor.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// What dlopen and the library's face say; the library is never unloaded.
const CudaFace* open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  const auto face = reinterpret_cast<CudaFaceFunction>(dlsym(library, cuda_face_name));
  if (face == nullptr) throw std::runtime_error(path + " is not fastopt's CUDA library");
  if (face()->abi != cuda_abi) {
    throw std::runtime_error(path + " belongs to another version of fastopt");
  }
  if (face()->device_count() == 0) {
    throw std::runtime_error("the CUDA driver is missing, too old for it, or sees no device");
  }
  return face();
}

}  // namespace

CudaLibrary& CudaLibrary::get() {
  static auto& library = *new CudaLibrary();
  return library;
}

bool CudaLibrary::loaded() {
  if (asked_) return face_ != nullptr;
  const py::object path = py::module_::import("fastopt._cuda").attr("library_path")();
  asked_ = true;
  if (path.is_none()) {
    trouble_ = "this build has no CUDA library";
    return false;
  }
  try {
    face_ = open_library(path.cast<std::string>());
  } catch (const std::runtime_error& error) {
    trouble_ = error.what();
  }
  return face_ != nullptr;
}

void CudaLibrary::load(const std::string& path, bool takes_cpu) {
  face_ = path.empty() ? nullptr : open_library(path);
  asked_ = !path.empty();
  takes_cpu_ = takes_cpu;
  trouble_.clear();
}

void CudaLibrary::run(CudaStep step, const std::vector<CudaItem>& items, int device) {
  step.items = items.data();
  step.count = static_cast<int64_t>(items.size());
  const CudaPlace place = {device, takes_cpu_ ? nullptr : TorchReader::get().stream(device)};
  if (const char* error = face_->step(step, place)) {
    throw std::runtime_error("CUDA device " + std::to_string(device) + ": " + error);
  }
}

CudaStep cuda_step(const AnyRule& rule) {
  CudaStep step;
  step.rule = rule.index();
  step.options = rule.options();
  return step;
}

CudaItem cuda_item(const Item& item, const CudaNumber& step) {
  CudaItem made{};
  std::copy_n(item.arrays, max_arrays, made.arrays);
  for (int array = 0; array < max_arrays; ++array) {
    made.dtypes[array] = static_cast<uint8_t>(item.dtypes[array]);
  }
  made.size = item.size;
  made.step = step;
  made.form = static_cast<uint8_t>(item.form);
  return made;
}

}  // namespace fastopt
