// The face between the per-target object files and the rest: plain types and tables, no inline
// code, so that it can be included on both sides without two copies of a function.
#pragma once

#include <stdint.h>

#include "cpu/dropout.h"
#include "cpu/packing.h"
#include "cpu/vectors.h"
#include "numeric/dtype.h"

namespace fastopt {

constexpr int ema_array = 2 + max_states;  // the running average of the parameter, where kept
constexpr int max_arrays = ema_array + 1;

// The ways in which the arrays of a parameter are stored, as far as loops differ. What a special
// way stores, a general one does, too: mixed or packed.
#define FASTOPT_WAYS(X, target)                                                            \
  X(target, float32) /* all arrays */                                                      \
  X(target, float64)                                                                       \
  X(target, bfloat16)                                                                      \
  X(target, mixed)          /* float32, bfloat16, float16 */                               \
  X(target, coded)          /* the states as codes of 8 bits, the others float32 */        \
  X(target, bfloat16_coded) /* likewise, the others bfloat16 */                            \
  X(target, rounded)        /* all bfloat16, and the parameter is rounded at random */     \
  X(target, split)          /* a bfloat16 parameter with lower halves, the others mixed */ \
  X(target, packed)         /* whatever a Packing says */

enum class Way : int {
#define FASTOPT_NAME(target, way) way,
  FASTOPT_WAYS(FASTOPT_NAME, )
#undef FASTOPT_NAME
};
#define FASTOPT_ONE(target, way) +1
constexpr int way_count = FASTOPT_WAYS(FASTOPT_ONE, );
#undef FASTOPT_ONE

// What happens around a rule, in the same pass over memory. Rounded to the dtype once.
struct Tail {
  double grad_factor = 1;  // multiplies the gradient before the rule sees it: clipping, unscaling
  double ema_decay = 0;    // average = decay average + (1 - decay) param after it
};

struct Summed;

// What a kernel applies: the rule's object for one dtype and one step, and its tail.
constexpr int max_rule_bytes = 240;
struct BoundRule {
  Tail tail;
  bool has_norms = false;          // of the whole tensor (cpu/normed.h)
  const Summed* summed = nullptr;  // of a program with sums (cpu/summed.h), in place of the rule
  alignas(16) unsigned char rule[max_rule_bytes];
};

// One of the passes over a parameter whose rule has norms or sums: the step comes last.
struct Pass {
  // Where it leaves what is to be summed up, of element `begin` and those behind it. It then takes
  // no step.
  void* const* summands = nullptr;
  // Where a rule with norms leaves the sums of squares of the parameter and of its update, of at
  // most a chunk. It then takes no step, either.
  double* squares = nullptr;
  double ratio = 1;  // of the norms, for the step
};

struct Item;

// Applies an item's rule to its elements [begin, end).
using Kernel = void (*)(const Item& item, int64_t begin, int64_t end);

// One parameter of a step: the arrays, the rule that is applied to them, and the rule's kernel for
// the way in which they are stored.
struct Item {
  Way way;
  Kernel kernel;
  Kernel inner;  // where the way is packed: the rule's for the buffers that it is unpacked to
  const BoundRule* rule;
  void* arrays[max_arrays];  // param, grad, the states in the rule's order, the average;
                             // nullptr where not used
  DType dtypes[max_arrays];  // what each is stored in
  const Packing* packing;    // nullptr where dtypes say it all
  Rounding rounding;         // of the states that are stored in 16 bits
  const Pass* pass;          // nullptr where one is enough
  void* copy;                // of the parameter after the step, for the user; or nullptr
  DType copy_dtype;
  int64_t size;
  int64_t start;  // in the concatenated index space; `run` sets it
};

// The sum of up to sum_chunk elements (or of their squares) by the tree in cpu/sum.h.
using Sum = double (*)(const void* values, int64_t count);
constexpr int64_t sum_chunk = 4096;

// One instruction set's kernels, and what it takes to run them.
struct Target {
  const char* name;
  const char* description;
  bool (*supported)();                 // by this machine
  const Kernel* kernels[way_count];    // [Way][rule, by its place in FASTOPT_ALL_RULES]; nullptr
                                       // where a rule has only the general way's
  const Sum* sums_of_squares;          // [dtype]
  const Sum* sum;                      // of doubles
  const VectorKernels* vectors;        // [dtype that is computed in]
  Kernel copy;                         // writes an item's copy; applies no rule
  const DropoutKernel* dropouts;       // [dtype]
  const DropoutKernel* dropout_rows;   // [dtype]
  const DropoutKernel* dropout_masks;  // [MaskKind]
  const PhiloxBlock* philox;
};

}  // namespace fastopt
