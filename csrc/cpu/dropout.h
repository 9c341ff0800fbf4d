// Dropout's face between the per-target object files, the threads and the bindings: plain data.
#pragma once

#include <stdint.h>

#include "rules/dropout_form.h"

namespace fastopt {

constexpr uint32_t keep_all = 65536;  // the threshold that every draw is below

// What random numbers are drawn for: the top byte of the counter's offset.
enum class RandomDomain : uint64_t { dropout = 0, rounding = 1 };
constexpr int offset_bits = 56;

// One call. Arrays are C-contiguous, of one dtype and of `size` elements where not said otherwise.
struct DropoutCall {
  const void* x = nullptr;
  void* out = nullptr;  // or x, or residual
  const void* bias = nullptr;
  const void* residual = nullptr;
  const unsigned char* mask = nullptr;  // bits to keep by instead of drawing, or nullptr
  unsigned char* mask_out = nullptr;    // where to store the bits, or nullptr
  int64_t size = 0;
  int64_t columns = 1;  // bias's size: element i takes bias[i % columns]
  int64_t inner = 1;    // elements that share a draw, for the rows kernels
  uint64_t seed = 0, offset = 0;
  uint64_t index = 0;      // of the first element's draw
  uint32_t threshold = 0;  // draws below it are kept: 0 to keep_all
  DropoutForm form = DropoutForm::plain;
  bool streams = false;  // store past the caches, if `out` is large enough and aligned
  DropoutScalars scalars;
};

// Elements [begin, end) of a call. With a mask of bits, `begin` is a multiple of dropout_grain.
using DropoutKernel = void (*)(const DropoutCall& call, int64_t begin, int64_t end);
constexpr int64_t dropout_grain = 256;

// The four words of one block of random numbers, for tests.
using PhiloxBlock = void (*)(uint64_t seed, uint64_t offset, uint64_t block, uint32_t* words);

enum class MaskKind : int { bits, bytes };
constexpr int mask_kind_count = 2;

enum class DType : int;

// How p is meant: the threshold for a keep rate of 1 - p, and the scale that undoes the loss.
uint32_t dropout_threshold(double p);
double dropout_scale(uint32_t threshold);

// The scalars of alpha dropout for a threshold above 0 and below keep_all.
DropoutScalars alpha_scalars(uint32_t threshold);

// The whole call, on up to `threads` threads.
void run_dropout(const DropoutCall& call, DType dtype, int threads);
void run_dropout_rows(const DropoutCall& call, DType dtype, int threads);
void run_dropout_mask(const DropoutCall& call, MaskKind kind, int threads);

}  // namespace fastopt
