// The face between the per-target object files and the rest: plain types and tables, no inline
// code, so that it can be included on both sides without two copies of a function.
#pragma once

#include <stdint.h>

#include "cpu/dropout.h"
#include "cpu/packing.h"
#include "cpu/vectors.h"
#include "numeric/coding.h"

namespace fastopt {

constexpr int ema_array = 2 + max_states;  // the running average of the parameter, where kept
constexpr int max_arrays = ema_array + 1;

// What arrays are stored in. The first two are also what kernels compute in.
enum class DType : int { float32, float64, bfloat16, float16 };
constexpr int compute_count = 2;
constexpr int dtype_count = 4;
constexpr int64_t dtype_bytes[dtype_count] = {4, 8, 2, 2};

// What happens around a rule, in the same pass over memory. Rounded to the dtype once.
struct Tail {
  double grad_factor = 1;  // multiplies the gradient before the rule sees it: clipping, unscaling
  double ema_decay = 0;    // average = decay average + (1 - decay) param after it
};

struct Summed;

// What a kernel applies: the rule's object for one dtype and one step, and its tail.
struct BoundRule {
  Tail tail;
  const Summed* summed = nullptr;  // of a program with sums (cpu/summed.h), in place of the rule
  alignas(16) unsigned char rule[112];
};

// Applies a rule to elements [begin, end) of one parameter. arrays: param, grad, the states in the
// rule's order, the average; nullptr where not used. dtypes: what each is stored in. rounding: of
// the states that are stored in 16 bits.
using Kernel = void (*)(const BoundRule& rule, void* const* arrays, const DType* dtypes,
                        const Rounding& rounding, int64_t begin, int64_t end);

// A program that leaves what is to be summed up, of element `begin` and those behind it.
using Pass = void (*)(const BoundRule& rule, void* const* arrays, const DType* dtypes,
                      int64_t begin, int64_t end, void* const* summands);

// A rule's kernels: every array of one type; any mix of float32, bfloat16 and float16.
enum class Form : int { float32, float64, bfloat16, mixed };
constexpr int form_count = 4;
constexpr int half_form_count = 2;  // from bfloat16 on

// The two passes of a rule with norms (cpu/normed.h), on arrays as a Kernel takes them: the states
// and the update that they make, which is left in `updates` in what is computed in; and the step by
// the ratio of the norms, which does not look at the gradient.
struct NormedKernels {
  void (*update_states)(const BoundRule& rule, void* const* arrays, const DType* dtypes,
                        const Rounding& rounding, int64_t begin, int64_t end, void* updates);
  void (*step_by)(const BoundRule& rule, void* const* arrays, const DType* dtypes, int64_t begin,
                  int64_t end, double ratio);
};

struct Item;

// Elements [begin, end) of an item that has a packing.
using Staged = void (*)(const Item& item, int64_t begin, int64_t end);

// One parameter of a step: a form and its kernel, the rule that it applies and the arrays that it
// works on.
struct Item {
  Form form;
  Kernel kernel;
  const NormedKernels* normed;  // in place of the kernel, where the rule has norms
  const BoundRule* rule;
  void* arrays[max_arrays];
  DType dtypes[max_arrays];
  Rounding rounding;
  int64_t size;
  int64_t start;           // in the concatenated index space; `run` sets it
  const Packing* packing;  // nullptr where dtypes say it all; else they are those of the buffers
  Staged staged;           // with a packing: what brings the elements to the kernel, or is it
};

// The sum of up to sum_chunk elements (or of their squares) by the tree in cpu/sum.h.
using Sum = double (*)(const void* values, int64_t count);
constexpr int64_t sum_chunk = 4096;

// One instruction set's kernels, and what it takes to run them.
struct Target {
  const char* name;
  const char* description;
  bool (*supported)();                            // by this machine
  const Kernel (*kernels)[compute_count];         // [rule, by its place in FASTOPT_RULES][Form]
  const Kernel (*half_kernels)[half_form_count];  // [rule][Form from bfloat16 on]
  const NormedKernels (*normed)[form_count];      // [rule, in FASTOPT_NORMED_RULES][Form]
  const Kernel* programs;                         // [dtype that is computed in]
  const Pass* passes;                             // likewise, of programs with sums
  Staged staged;                                  // any item, by way of buffers (cpu/stage.h)
  const Staged* coded;                            // [rule]: all float32, states in 8 bits
  const Staged* half_coded;                       // [rule]: all bfloat16, states in 8 bits
  const Staged* rounded;                          // [rule]: all bfloat16, rounded at random
  const Sum* sums_of_squares;                     // [dtype]
  const Sum* sum;                                 // of doubles
  const VectorKernels* vectors;                   // [dtype that is computed in]
  const DropoutKernel* dropouts;                  // [dtype]
  const DropoutKernel* dropout_rows;              // [dtype]
  const DropoutKernel* dropout_masks;             // [MaskKind]
  const PhiloxBlock* philox;
};

}  // namespace fastopt
