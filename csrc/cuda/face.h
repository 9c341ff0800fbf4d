// The face of the CUDA library: plain data and one exported function, so that a process loads it
// when it first meets a CUDA tensor, and does without where there is none.
//
// Nothing here waits for a device, allocates on one or copies to one: a launch takes its table in
// its parameters. Functions return nullptr, or what went wrong; what they have launched by then is
// done all the same.
#pragma once

#include <stdint.h>

#include "cpu/dropout.h"
#include "cpu/kernel.h"
#include "cpu/norm.h"
#include "cpu/packing.h"
#include "rules/program.h"

namespace fastopt {

constexpr int cuda_abi = 11;  // to be raised with every change of this file

// The most that a program whose numbers the device computes may have of each. `given`: numbers that
// lie on the device.
constexpr int max_program_numbers = 1024, max_program_nodes = 1024, max_program_stages = 8;
constexpr int max_program_guards = 64, max_program_given = 6;

// Where kernels are launched.
struct CudaPlace {
  int device;
  void* stream;
};

// A number: `value`, or one of this type that lies on the device, and is read there.
struct CudaNumber {
  enum class Type : uint8_t { value, float32, float64, int64 };
  union {
    double value;
    void* at;
  };
  Type type;

  bool on_device() const { return type != Type::value; }
  static CudaNumber of(double value) { return {{value}, Type::value}; }
  static CudaNumber lying(void* at, Type type) {
    CudaNumber number;
    number.at = at;
    number.type = type;
    return number;
  }
};

// One parameter of a step.
struct CudaItem {
  void* arrays[max_arrays];
  int64_t size;
  CudaNumber step, product;    // product: of a rule that keeps one (rules/rule.h)
  CudaNumber dither_step;      // what makes the dither, for states in 8 or 16 bits
  int64_t first;               // for states in 16 bits: of its elements in the whole parameter
  uint32_t first_chunk;        // of the launch; the library sets it
  uint8_t dtypes[max_arrays];  // DType
  uint8_t way;                 // Way
};

// One with a packing.
struct CudaPackedItem : CudaItem {
  Packing packing;           // with no dither
  const uint64_t* rounding;  // on the device: a seed in packing's place, and what its offset lacks
};

// A group's step.
struct CudaStep {
  int rule = 0;                   // its place in FASTOPT_RULES
  const void* options = nullptr;  // the rule's Options
  CudaNumber lr = {};             // in place of the options', where it lies on the device
  CudaNumber grad_factor = CudaNumber::of(1);  // as in Tail
  double ema_decay = 0;                        // likewise
  const float* found_inf = nullptr;  // on the device; where it is not 0, nothing is written
  const CudaItem* items = nullptr;
  int64_t count = 0;
  const CudaPackedItem* packed = nullptr;
  int64_t packed_count = 0;
  bool one_by_one = false;  // parameters share memory
};

// A stage of a program: a pass that leaves sums, or the step.
struct CudaStage {
  const ProgramStep* steps;
  int length, summands;
  unsigned squares;  // bit k is set if the squares of summand k are summed up
  int nodes;         // how many are known before it
};

// A program whose numbers the device computes for each parameter (cpu/traced.h). They are counted
// through; there is room for a parameter's size and its sums from `size_at` on, if it has some, and
// for what each node makes from `first_node` on.
struct CudaProgram {
  struct Guard {
    int number;
    bool answer;
  };
  const CudaStage* stages;
  int stage_count, arrays;
  unsigned written;
  const NumberNode* nodes;
  const double* numbers;  // as far as all parameters have the same
  int number_count, size_at, first_node;
  const Guard* guards;
  int guard_count;
  const int* kept;  // what the numbers that a parameter keeps are after the step
  int kept_count;
};

// The programs of a step, of which the guards of one hold for a parameter.
struct CudaBranches {
  const CudaProgram* programs;
  int count;
  const int*
      given_at;  // the numbers that lie on the device; those that parameters keep are the last
  int given_count;
  const CudaNumber* given;  // of each item, one after another
};

// A number that lies on the device and becomes factor x number + term, rounded as it is stored: one
// more of a count, the sum of an average's weights. Of whole numbers, one more.
struct CudaCounter {
  CudaNumber number;
  double factor, term;
};

// A product that lies on the device, and the step whose factor it lacks.
struct CudaProduct {
  CudaNumber product, step;
};

// What the gradients are multiplied by.
struct CudaClip {
  const double* squares;  // the sum of theirs, on the device; nullptr where max_norm is infinite
  double max_norm;
  CudaNumber grad_scale;
  struct Result {
    double norm, factor;
  };
  Result* result;  // on the device
};

// A call of dropout, on the device's arrays.
struct CudaDropout : DropoutCall {
  // Where on the device the seed lies, in place of the call's, and what is added to its offset.
  const uint64_t *seed_at = nullptr, *offset_at = nullptr;
};

struct CudaFace {
  int abi;
  int (*device_count)();  // 0 where there is no driver

  // Why the kernels do not run there; nullptr if they do. Launches one that has nothing to do, with
  // as large a table as there is.
  const char* (*trouble)(const CudaPlace& place);

  // Whether a graph captures what is launched there.
  const char* (*captures)(const CudaPlace& place, bool& answer);

  int64_t (*launches)();  // by this thread, so far, without those that failed
  const char* (*step)(const CudaStep& step, const CudaPlace& place);

  // By a program in place of the rule, which computes in `compute`.
  const char* (*program)(const BoundProgram& program, DType compute, const CudaStep& step,
                         const CudaPlace& place);

  // Likewise by programs whose numbers the device computes, of items that have elements. `scratch`
  // has as many doubles as branches_scratch says.
  int64_t (*branches_scratch)(const CudaBranches& branches, const CudaStep& step);
  const char* (*branches)(const CudaBranches& branches, DType compute, const CudaStep& step,
                          double* scratch, const CudaPlace& place);

  // To scratch[0], with the CPU's bits (cpu/norm.h). For n chunks of up to sum_chunk elements,
  // of one array each, scratch has 2 n + 2 elements.
  const char* (*sum_of_squares)(const Values* arrays, int64_t count, double* scratch,
                                const CudaPlace& place);

  const char* (*clip)(const CudaClip& clip, const CudaPlace& place);

  // Every counter's next number, or none where *found_inf is not 0.
  const char* (*advance)(const CudaCounter* counters, int64_t count, const float* found_inf,
                         const CudaPlace& place);

  // A step's factor to every product, by the step's rule, or none where its found_inf is not 0.
  const char* (*multiply)(const CudaStep& step, const CudaProduct* products, int64_t count,
                          const CudaPlace& place);

  // Calls of at least one element.
  const char* (*dropout)(const CudaDropout& call, DType dtype, const CudaPlace& place);
  const char* (*dropout_mask)(const CudaDropout& call, MaskKind kind, const CudaPlace& place);
};

// The library's one symbol.
using CudaFaceFunction = const CudaFace* (*)();
constexpr const char* cuda_face_name = "fastopt_cuda_face";

}  // namespace fastopt
