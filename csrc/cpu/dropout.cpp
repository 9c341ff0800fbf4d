#include "cpu/dropout.h"

#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace fastopt {
namespace {

// Past this many bytes, written memory will not be read from a cache soon: not worth fetching.
constexpr int64_t stream_above = int64_t{1} << 25;
constexpr uintptr_t stream_alignment = 64;

constexpr int64_t tiles_at_once = 1024;  // for one thread

// Threads meet between tiles, so that no two of them write bits of one byte.
void run_tiles(DropoutKernel kernel, const DropoutCall& call, int threads) {
  const int64_t tiles = (call.size + dropout_grain - 1) / dropout_grain;
  split(tiles, tiles_at_once, usable_threads(call.size, threads), [&](int64_t begin, int64_t end) {
    begin *= dropout_grain;
    end = end * dropout_grain < call.size ? end * dropout_grain : call.size;
    if (begin < end) kernel(call, begin, end);
  });
}

}  // namespace

uint32_t dropout_threshold(double p) {
  return static_cast<uint32_t>(std::nearbyint((1 - p) * keep_all));
}

double dropout_scale(uint32_t threshold) {
  return threshold == 0 ? 0.0 : static_cast<double>(keep_all) / threshold;
}

DropoutScalars alpha_scalars(uint32_t threshold) {
  // -scale * alpha of SELU: what the activation tends to at minus infinity.
  constexpr double saturation = -1.7580993408473766;
  const double q = static_cast<double>(threshold) / keep_all;
  const double scale = 1 / std::sqrt(q * (1 + (1 - q) * (saturation * saturation)));
  const double shift = -scale * (1 - q) * saturation;
  return {scale, shift, scale * saturation + shift};
}

void run_dropout(const DropoutCall& call, DType dtype, int threads) {
  DropoutCall final = call;
  final.streams = call.streams && call.out != call.x &&
                  call.size * dtype_bytes[static_cast<int>(dtype)] > stream_above &&
                  reinterpret_cast<uintptr_t>(call.out) % stream_alignment == 0;
  run_tiles(target().dropouts[static_cast<int>(dtype)], final, threads);
}

void run_dropout_rows(const DropoutCall& call, DType dtype, int threads) {
  run_tiles(target().dropout_rows[static_cast<int>(dtype)], call, threads);
}

void run_dropout_mask(const DropoutCall& call, MaskKind kind, int threads) {
  run_tiles(target().dropout_masks[static_cast<int>(kind)], call, threads);
}

}  // namespace fastopt
