// The tables of kernels, between the files that compile them and library.cu.
#pragma once

#include "cuda/table.h"

namespace fastopt {
namespace FASTOPT_TARGET {

// Launches a rule's kernel for the states in `wanted`, one bit each.
using StepLauncher = const char* (*)(const StepTable& table, unsigned wanted, int64_t blocks,
                                     void* stream);

constexpr int step_form_count = 4;  // the forms of which there are kernels, from Form's first on

extern const StepLauncher step_launchers[][compute_count];  // [rule][Form]
extern const StepLauncher half_step_launchers[][step_form_count - compute_count];

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
