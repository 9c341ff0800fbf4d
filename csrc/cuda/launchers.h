// The tables of kernels, between the files that compile them and library.cu.
#pragma once

#include "cuda/face.h"

namespace fastopt {
namespace FASTOPT_TARGET {

// Launches a rule's kernel over those of a step's items that are stored in one way and keep these
// states, a bit each.
using StepLauncher = const char* (*)(const CudaStep& step, unsigned states, void* stream);

namespace ways {  // each by rule
extern const StepLauncher float32[], float64[], bfloat16[], mixed[], coded[], bfloat16_coded[],
    rounded[], split[], packed[];
}

// As in CudaFace.
const char* run_program(const BoundProgram& program, DType compute, const CudaStep& step,
                        const CudaPlace& place);
int64_t branches_scratch(const CudaBranches& branches, const CudaStep& step);
const char* run_branches(const CudaBranches& branches, DType compute, const CudaStep& step,
                         double* scratch, const CudaPlace& place);

// The sums of all chunks of these arrays, or of their squares, one after another.
const char* sum_chunks(const Values* arrays, int64_t count, bool squares, double* sums,
                       void* stream);

const char* run_sum_of_squares(const Values* arrays, int64_t count, double* scratch,
                               const CudaPlace& place);
const char* run_clip(const CudaClip& clip, const CudaPlace& place);
const char* run_advance(const CudaCounter* counters, int64_t count, const float* found_inf,
                        const CudaPlace& place);
const char* run_multiply(const CudaStep& step, const CudaProduct* products, int64_t count,
                         const CudaPlace& place);
const char* run_dropout(const CudaDropout& call, DType dtype, const CudaPlace& place);
const char* run_dropout_mask(const CudaDropout& call, MaskKind kind, const CudaPlace& place);

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
