#include "bindings/cuda.h"

#include <dlfcn.h>

#include <algorithm>
#include <deque>
#include <stdexcept>

#include "bindings/tensor.h"
#include "cpu/float_mode.h"

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

void check(const char* error, int device) {
  if (error == nullptr) return;
  throw std::runtime_error("CUDA device " + std::to_string(device) + ": " + error);
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
    trouble_ = "this build has no CUDA library; FASTOPT_CUDA=ON builds it (docs/cuda.md)";
    return false;
  }
  try {
    face_ = open_library(path.cast<std::string>());
  } catch (const std::runtime_error& error) {
    trouble_ = error.what();
  }
  return face_ != nullptr;
}

bool CudaLibrary::runs_on(int device) {
  if (!loaded()) return false;
  const auto found = troubles_.find(device);
  const char* trouble = found != troubles_.end() ? found->second : find_trouble(device);
  if (trouble != nullptr) trouble_ = trouble;
  return trouble == nullptr;
}

const char* CudaLibrary::find_trouble(int device) {
  const CudaPlace at = place(device);
  const char* trouble = nullptr;
  {
    py::gil_scoped_release released;  // the library may have to be brought to the device
    trouble = face_->trouble(at);
  }
  return troubles_[device] = trouble;
}

void CudaLibrary::load(const std::string& path, bool takes_cpu) {
  face_ = path.empty() ? nullptr : open_library(path);
  asked_ = !path.empty();
  takes_cpu_ = takes_cpu;
  trouble_.clear();
  troubles_.clear();
}

CudaPlace CudaLibrary::place(int device) const {
  return {device, takes_cpu_ ? nullptr : TorchReader::get().stream(device)};
}

bool CudaLibrary::captures(int device) const {
  bool answer = false;
  check(face_->captures(place(device), answer), device);
  return answer;
}

// A launch may wait for room in a full queue, or bring its kernel to the device first.
template <class Act>
void CudaLibrary::act(int device, Act act) const {
  const CudaPlace at = place(device);
  const char* error = nullptr;
  {
    py::gil_scoped_release released;
    FloatMode mode;  // of the walk
    error = act(at);
  }
  check(error, device);
}

void CudaLibrary::step(CudaStep step, const std::vector<CudaItem>& items,
                       const std::vector<CudaPackedItem>& packed, int device) const {
  step.items = items.data();
  step.count = static_cast<int64_t>(items.size());
  step.packed = packed.data();
  step.packed_count = static_cast<int64_t>(packed.size());
  act(device, [&](const CudaPlace& at) { return face_->step(step, at); });
}

void CudaLibrary::program(const BoundProgram& program, DType compute, const CudaStep& step,
                          int device) const {
  act(device, [&](const CudaPlace& at) { return face_->program(program, compute, step, at); });
}

Doubles::Doubles(int device, int64_t count) {
  static const auto& torch = *new py::object(py::module_::import("torch"));
  tensor = torch.attr("empty")(py::make_tuple(count), py::arg("dtype") = torch.attr("float64"),
                               py::arg("device") = CudaLibrary::get().name_of(device));
  View view;
  TorchReader::get().read(tensor.ptr(), &view);
  data = static_cast<double*>(data_of(view));
}

namespace {

// A program as the library takes it, and what that points to.
struct Described {
  std::vector<CudaStage> stages;
  std::vector<CudaProgram::Guard> guards;
  CudaProgram program;

  Described(const Summed& of, bool has_given) {
    const Traced& traced = *of.program;
    for (const Traced::Stage& stage : traced.stages) {
      unsigned squares = 0;
      const int summands = static_cast<int>(stage.squares.size());
      for (int k = 0; k < summands; ++k) squares |= unsigned{stage.squares[k]} << k;
      stages.push_back({stage.steps.data(), static_cast<int>(stage.steps.size()), summands, squares,
                        stage.nodes});
    }
    if (has_given) {  // else they have been asked
      for (const Traced::Guard& guard : traced.guards) {
        guards.push_back({guard.number, guard.answer});
      }
    }
    program = {stages.data(),
               static_cast<int>(stages.size()),
               traced.arrays,
               traced.written,
               traced.nodes.data(),
               of.numbers.data(),
               static_cast<int>(of.numbers.size()),
               traced.has_sums() ? traced.given() : -1,
               traced.first_node(),
               guards.data(),
               static_cast<int>(guards.size()),
               traced.kept.data(),
               has_given ? static_cast<int>(traced.kept.size()) : 0};
  }
};

bool fits(const Summed& of) {
  const Traced& traced = *of.program;
  return of.numbers.size() <= max_program_numbers && traced.nodes.size() <= max_program_nodes &&
         traced.stages.size() <= max_program_stages && traced.guards.size() <= max_program_guards;
}

}  // namespace

const char* unfit_program(const BoundRule& rule) {
  if (rule.summed == nullptr) return nullptr;
  const Summed& first = *rule.summed;
  if (!fits(first) || !std::all_of(first.others.begin(), first.others.end(), fits)) {
    return "of a rule of more numbers, sums or ifs than CUDA's kernels take";
  }
  return first.given.size() <= max_program_given
             ? nullptr
             : "of a rule that keeps more numbers than CUDA's kernels take";
}

void CudaLibrary::branches(const Summed& first, DType compute, const CudaStep& step,
                           const CudaNumber* given, int device) const {
  const std::size_t given_count = first.given.size();
  std::deque<Described> all;
  all.emplace_back(first, given_count > 0);
  for (const Summed& other : first.others) all.emplace_back(other, true);
  std::vector<CudaProgram> programs;
  for (const Described& one : all) programs.push_back(one.program);
  const CudaBranches branches = {programs.data(), static_cast<int>(programs.size()),
                                 first.given.data(), static_cast<int>(given_count), given};
  const Doubles scratch(device, face_->branches_scratch(branches, step));
  act(device, [&](const CudaPlace& at) {
    return face_->branches(branches, compute, step, scratch.data, at);
  });
}

namespace {

const BoundProgram& program_of(const BoundRule& rule) {
  return *reinterpret_cast<const BoundProgram*>(rule.rule);
}

// Whether two rules do the same, with the same numbers.
bool is_same(const BoundRule& a, const BoundRule& b) {
  if (a.summed != nullptr || b.summed != nullptr) return a.summed == b.summed;
  return program_of(a).code == program_of(b).code;
}

}  // namespace

CudaPrograms::Of& CudaPrograms::with(const BoundRule& rule, DType compute, bool is_packed,
                                     const std::vector<CudaNumber>& given) {
  if (all.empty() || !is_same(all.back().rule, rule) || all.back().packed.empty() == is_packed) {
    all.push_back({rule, compute, {}, {}, {}});
  }
  Of& its = all.back();
  its.given.insert(its.given.end(), given.begin(), given.end());
  return its;
}

void CudaPrograms::add(const BoundRule& rule, DType compute, const CudaItem& item,
                       const std::vector<CudaNumber>& given) {
  if (item.size == 0 && given.empty()) return;
  with(rule, compute, false, given).items.push_back(item);
}

void CudaPrograms::add(const BoundRule& rule, DType compute, const CudaPackedItem& item,
                       const std::vector<CudaNumber>& given) {
  if (item.size == 0 && given.empty()) return;
  with(rule, compute, true, given).packed.push_back(item);
}

void CudaPrograms::step(const CudaStep& of_group, int device) const {
  const CudaLibrary& library = CudaLibrary::get();
  for (const Of& one : all) {
    CudaStep step = of_group;
    const int64_t count = static_cast<int64_t>(one.items.size() + one.packed.size());
    // Sums are of all items at once, unless they share memory.
    const int64_t at_once = one.rule.summed != nullptr && step.one_by_one ? 1 : count;
    for (int64_t i = 0; i < count; i += at_once) {
      const bool is_packed = !one.packed.empty();
      (is_packed ? step.packed_count : step.count) = at_once;
      if (is_packed) step.packed = &one.packed[i];
      if (!is_packed) step.items = &one.items[i];
      if (one.rule.summed == nullptr) {
        library.program(program_of(one.rule), one.compute, step, device);
      } else {
        const Summed& first = *one.rule.summed;
        library.branches(first, one.compute, step, one.given.data() + i * first.given.size(),
                         device);
      }
    }
  }
}

void CudaLibrary::sum_of_squares(const std::vector<Values>& arrays, double* scratch,
                                 int device) const {
  const int64_t count = static_cast<int64_t>(arrays.size());
  act(device, [&](const CudaPlace& at) {
    return face_->sum_of_squares(arrays.data(), count, scratch, at);
  });
}

void CudaLibrary::clip(const CudaClip& clip, int device) const {
  act(device, [&](const CudaPlace& at) { return face_->clip(clip, at); });
}

void CudaLibrary::advance(const std::vector<CudaCounter>& counters, const float* found_inf,
                          int device) const {
  const int64_t count = static_cast<int64_t>(counters.size());
  act(device,
      [&](const CudaPlace& at) { return face_->advance(counters.data(), count, found_inf, at); });
}

void CudaLibrary::multiply(const CudaStep& step, const std::vector<CudaProduct>& products,
                           int device) const {
  const int64_t count = static_cast<int64_t>(products.size());
  act(device,
      [&](const CudaPlace& at) { return face_->multiply(step, products.data(), count, at); });
}

void CudaLibrary::dropout(const CudaDropout& call, DType dtype, int device) const {
  act(device, [&](const CudaPlace& at) { return face_->dropout(call, dtype, at); });
}

void CudaLibrary::dropout_mask(const CudaDropout& call, MaskKind kind, int device) const {
  act(device, [&](const CudaPlace& at) { return face_->dropout_mask(call, kind, at); });
}

CudaItem cuda_item(const Item& item, const CudaNumber& step, const CudaNumber& product,
                   const CudaNumber& dither_step) {
  CudaItem made{};
  std::copy_n(item.arrays, max_arrays, made.arrays);
  for (int array = 0; array < max_arrays; ++array) {
    made.dtypes[array] = static_cast<uint8_t>(item.dtypes[array]);
  }
  made.size = item.size;
  made.step = step;
  made.product = product;
  made.dither_step = dither_step;
  made.first = item.rounding.first;
  made.way = static_cast<uint8_t>(item.way);
  return made;
}

DeviceNumber device_number(PyObject* object, bool placed) {
  View view;
  if (object == nullptr || !TorchReader::get().read(object, &view)) return {};
  const int device = CudaLibrary::get().device_of(view), dtype = dtype_of(view);
  if (device < 0 || (on_cpu(view) && !placed) || element_count(view) != 1) return {};
  if (dtype < 0 || dtype >= compute_count) return {};
  const bool is_double = static_cast<DType>(dtype) == DType::float64;
  const auto type = is_double ? CudaNumber::Type::float64 : CudaNumber::Type::float32;
  return {CudaNumber::lying(data_of(view), type), device};
}

}  // namespace fastopt
