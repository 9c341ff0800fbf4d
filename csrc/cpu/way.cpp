// One target's kernels for one way of storing (cpu/kernel.h), a row of the table of all rules.
// CMake compiles this file once per target and way, each time with that target's machine flags,
// FASTOPT_TARGET, FASTOPT_SIMD_* and FASTOPT_WAY.
//
// Nothing but the tables may leave this object file and target.cpp's, and no standard-library
// template may be instantiated in them: see target.h. tests/installed/test_symbols.py reads the
// symbols.
#include "cpu/coded.h"
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "cpu/normed_loop.h"
#include "cpu/packed.h"
#include "cpu/program_loop.h"
#include "cpu/rounded.h"
#include "cpu/split.h"
#include "rules/list.h"

FASTOPT_TARGET_BEGIN

constexpr Way way = Way::FASTOPT_WAY;

template <template <class> class Rule>
constexpr Kernel kernel_of_rule() {
  using Halves = ArrayOf<bfloat16, Pair>;
  using R = Rule<float>;
  if constexpr (way == Way::float32) {
    return choose_loop<R, Loops<R, float, ArrayOf<float>>>;
  } else if constexpr (way == Way::float64) {
    return choose_loop<Rule<double>, Loops<Rule<double>, double, ArrayOf<double>>>;
  } else if constexpr (way == Way::bfloat16) {
    return choose_loop<R, Loops<R, float, Halves>>;
  } else if constexpr (way == Way::mixed) {
    return choose_loop<R, Loops<R, float, MixedArray>>;
  } else if constexpr (way == Way::coded) {
    return choose_loop<R, CodedLoops<R, float>>;
  } else if constexpr (way == Way::bfloat16_coded) {
    return choose_loop<R, CodedLoops<R, bfloat16>>;
  } else if constexpr (way == Way::rounded) {
    return choose_loop<R, RoundedLoops<R>>;
  } else if constexpr (way == Way::split) {
    return choose_loop<R, SplitLoops<R>>;
  } else {
    return run_packed;
  }
}

// Of a rule with norms, which takes no packing.
template <template <class> class Rule>
constexpr Kernel kernel_of_normed_rule() {
  if constexpr (way == Way::float32) {
    return run_normed_loop<Rule<float>, float, ArrayOf<float, Pair>>;
  } else if constexpr (way == Way::float64) {
    return run_normed_loop<Rule<double>, double, ArrayOf<double>>;
  } else if constexpr (way == Way::mixed) {
    return run_normed_loop<Rule<float>, float, MixedArray>;
  } else {
    return nullptr;
  }
}

// The interpreter.
template <Way way>
constexpr Kernel kernel_of_program() {
  if constexpr (way == Way::packed) {
    return run_packed;
  } else if constexpr (way == Way::float64) {
    return run_program<double, way>;
  } else if constexpr (way == Way::float32 || way == Way::bfloat16 || way == Way::mixed) {
    return run_program<float, way>;
  } else {
    return nullptr;
  }
}

FASTOPT_TARGET_END

namespace fastopt {
namespace FASTOPT_TARGET {
namespace ways {

#define FASTOPT_KERNEL(Rule) kernel_of_rule<Rule>(),
#define FASTOPT_NORMED_KERNEL(Rule) kernel_of_normed_rule<Rule>(),
extern const Kernel FASTOPT_WAY[];
const Kernel FASTOPT_WAY[] = {FASTOPT_RULES(FASTOPT_KERNEL) FASTOPT_NORMED_RULES(
    FASTOPT_NORMED_KERNEL) kernel_of_program<fastopt::FASTOPT_TARGET::way>()};

}  // namespace ways
}  // namespace FASTOPT_TARGET
}  // namespace fastopt
