#include "cpu/dispatch.h"

#ifdef FASTOPT_HAVE_AVX2
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace fastopt {

#define FASTOPT_DECLARE_WAY(target, way) extern const Kernel way[];
#define FASTOPT_DECLARE_TARGET(name)                         \
  namespace name {                                           \
  namespace ways {                                           \
  FASTOPT_WAYS(FASTOPT_DECLARE_WAY, name)                    \
  }                                                          \
  extern const Sum sums_of_squares[dtype_count];             \
  extern const Sum sum;                                      \
  extern const VectorKernels vectors[compute_count];         \
  extern const Kernel copy;                                  \
  extern const DropoutKernel dropouts[dtype_count];          \
  extern const DropoutKernel dropout_rows[dtype_count];      \
  extern const DropoutKernel dropout_masks[mask_kind_count]; \
  extern const PhiloxBlock philox;                           \
  }
FASTOPT_DECLARE_TARGET(scalar)
FASTOPT_DECLARE_TARGET(avx2)
FASTOPT_DECLARE_TARGET(avx512)
FASTOPT_DECLARE_TARGET(neon)
#undef FASTOPT_DECLARE_TARGET

#define FASTOPT_TABLE(target, way) target::ways::way,
#define FASTOPT_TABLES(name)                                                             \
  {FASTOPT_WAYS(FASTOPT_TABLE, name)}, name::sums_of_squares, &name::sum, name::vectors, \
      name::copy, name::dropouts, name::dropout_rows, name::dropout_masks, &name::philox

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
#ifdef FASTOPT_HAVE_AVX512
      {"avx512", "AVX-512 F, BW, DQ, VL",
       [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
       },
       FASTOPT_TABLES(avx512)},
#endif
#ifdef FASTOPT_HAVE_AVX2
      {"avx2", "AVX2, F16C",
       [] {
         unsigned a = 0, b = 0, c = 0, d = 0;  // clang's __builtin_cpu_supports knows no "f16c"
         return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) &&
                (c & bit_F16C) != 0;
       },
       FASTOPT_TABLES(avx2)},
#endif
#ifdef FASTOPT_HAVE_NEON
      {"neon", "Arm NEON", [] { return true; }, FASTOPT_TABLES(neon)},
#endif
      {"scalar", "no explicit SIMD", [] { return true; }, FASTOPT_TABLES(scalar)},
  };
  return all;
}

namespace {

std::string names(bool only_supported) {
  std::string text;
  for (const Target& t : targets()) {
    if (only_supported && !t.supported()) continue;
    text += (text.empty() ? "" : ", ") + std::string(t.name);
  }
  return text;
}

const Target& find(const std::string& name, const std::string& argument) {
  for (const Target& t : targets()) {
    if (t.name != name) continue;
    if (t.supported()) return t;
    throw std::invalid_argument(argument + ": this machine does not support the CPU target '" +
                                name + "'; it supports " + names(true));
  }
  throw std::invalid_argument(argument + ": unknown CPU target '" + name + "'; this build has " +
                              names(false));
}

const Target* choose() {
  if (const char* forced = std::getenv("FASTOPT_CPU_TARGET");
      forced != nullptr && *forced != '\0') {
    return &find(forced, "FASTOPT_CPU_TARGET");
  }
  for (const Target& t : targets()) {
    if (t.supported()) return &t;
  }
  throw std::logic_error("the scalar target is always supported");
}

const Target*& current() {
  static const Target* chosen = choose();
  return chosen;
}

}  // namespace

const Target& target() { return *current(); }

void set_target(const std::string& name) { current() = &find(name, "name"); }

}  // namespace fastopt
