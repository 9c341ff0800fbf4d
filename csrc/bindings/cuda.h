// The CUDA library (csrc/cuda) as the bindings see it: loaded when the first CUDA tensor comes.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <string>
#include <vector>

#include "bindings/rules.h"
#include "cpu/kernel.h"
#include "cpu/summed.h"
#include "cuda/face.h"
#include "dlpack.h"

namespace fastopt {

// Where a tensor's kernels are: a CUDA device's number, or one of these.
constexpr int cpu_device = -1, no_device = -2;

class CudaLibrary {
 public:
  static CudaLibrary& get();

  int device_of(const DLTensor& view) {
    if (view.device.device_type == kDLCPU) return takes_cpu_ ? 0 : cpu_device;
    const int device = view.device.device_id;
    return view.device.device_type == kDLCUDA && runs_on(device) ? device : no_device;
  }

  // Whether there are kernels for CUDA tensors; fastopt._cuda is asked where the library lies.
  bool loaded();
  bool runs_on(int device);                                                 // those of this device
  bool has_tried(int device) const { return troubles_.count(device) > 0; }  // else others run then
  const std::string& trouble() const { return trouble_; }  // why not, the latest time

  // Uses the library in this file; for tests, CPU tensors count as lying on device 0 if
  // `takes_cpu`. An empty path: none until the next CUDA tensor. Throws std::runtime_error.
  void load(const std::string& path, bool takes_cpu);

  // How torch calls a device.
  std::string name_of(int device) const {
    return takes_cpu_ ? "cpu" : "cuda:" + std::to_string(device);
  }

  bool captures(int device) const;  // whether a graph captures torch's current stream there
  int64_t launches() const { return face_ == nullptr ? 0 : face_->launches(); }  // by this thread

  // What the library launches, on torch's current stream, while other threads may run. They throw
  // std::runtime_error.
  void step(CudaStep step, const std::vector<CudaItem>& items,
            const std::vector<CudaPackedItem>& packed, int device) const;
  void program(const BoundProgram& program, DType compute, const CudaStep& step, int device) const;
  void branches(const Summed& first, DType compute, const CudaStep& step, const CudaNumber* given,
                int device) const;
  void sum_of_squares(const std::vector<Values>& arrays, double* scratch, int device) const;
  void clip(const CudaClip& clip, int device) const;
  void advance(const std::vector<CudaCounter>& counters, const float* found_inf, int device) const;
  void multiply(const CudaStep& step, const std::vector<CudaProduct>& products, int device) const;
  void dropout(const CudaDropout& call, DType dtype, int device) const;
  void dropout_mask(const CudaDropout& call, MaskKind kind, int device) const;

 private:
  CudaPlace place(int device) const;
  const char* find_trouble(int device);

  template <class Act>
  void act(int device, Act act) const;

  const CudaFace* face_ = nullptr;
  bool asked_ = false, takes_cpu_ = false;
  std::string trouble_;
  std::map<int, const char*> troubles_;  // of each device that was asked for; nullptr for none
};

// Memory on a device, lent by torch: a float64 tensor, and where it lies.
struct Doubles {
  Doubles(int device, int64_t count);
  pybind11::object tensor;
  double* data;
};

CudaItem cuda_item(const Item& item, const CudaNumber& step, const CudaNumber& product,
                   const CudaNumber& dither_step);

// Parameters of one device that programs step, in their order: those of one rule together.
struct CudaPrograms {
  struct Of {
    BoundRule rule;
    DType compute;
    std::vector<CudaItem> items;  // or else
    std::vector<CudaPackedItem> packed;
    std::vector<CudaNumber> given;  // of each item, one after another
  };
  std::vector<Of> all;

  void add(const BoundRule& rule, DType compute, const CudaItem& item,
           const std::vector<CudaNumber>& given = {});
  void add(const BoundRule& rule, DType compute, const CudaPackedItem& item,
           const std::vector<CudaNumber>& given);
  void step(const CudaStep& step, int device) const;

 private:
  Of& with(const BoundRule& rule, DType compute, bool is_packed,
           const std::vector<CudaNumber>& given);
};

// Why a device cannot compute the numbers of a program; nullptr if it can, or need not.
const char* unfit_program(const BoundRule& rule);

// A float32 or float64 tensor of one element on a CUDA device; on cpu_device where `object` is
// anything else. A CPU tensor of the tests lies there if `placed`.
struct DeviceNumber {
  CudaNumber number = {};
  int device = cpu_device;
};
DeviceNumber device_number(PyObject* object, bool placed);

}  // namespace fastopt
