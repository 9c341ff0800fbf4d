// Launches what surrounds a step.
#include "cuda/launchers.h"
#include "cuda/tail.h"
#include "rules/list.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

int64_t sum_chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

using Multiplier = const char* (*)(const CudaStep& step, const CudaProduct* products, int64_t count,
                                   void* stream);

// nullptr for a rule that keeps no product.
template <class Rule>
constexpr Multiplier multiplier() {
  if constexpr (keeps_product<Rule>) {
    return [](const CudaStep& step, const CudaProduct* products, int64_t count, void* stream) {
      Multiply<Rule> act;
      __builtin_memcpy(&act.options, step.options, sizeof act.options);
      return for_numbers(act, products, count, step.found_inf, stream);
    };
  } else {
    return nullptr;
  }
}

#define FASTOPT_MULTIPLIER(Rule) multiplier<Rule<float>>(),
constexpr Multiplier multipliers[] = {FASTOPT_RULES(FASTOPT_MULTIPLIER)};

}  // namespace

const char* sum_chunks(const Values* arrays, int64_t count, bool squares, double* sums,
                       void* stream) {
  SumKernel::Args args;
  args.squares = squares;
  for (int64_t i = 0; i < count;) {
    args.sums = sums;
    args.chunks = 0;
    for (args.count = 0; i < count && args.count < SumKernel::Args::capacity; ++i, ++args.count) {
      args.entries[args.count] = {arrays[i], static_cast<uint32_t>(args.chunks)};
      args.chunks += sum_chunks_of(arrays[i].size);
    }
    const int64_t blocks = (args.chunks + SumKernel::warps - 1) / SumKernel::warps;
    if (const char* error = launch<SumKernel>(args, blocks, stream)) return error;
    sums += args.chunks;
  }
  return nullptr;
}

const char* run_sum_of_squares(const Values* arrays, int64_t count, double* scratch,
                               const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) chunks += sum_chunks_of(arrays[i].size);
  double *rest = scratch + 1, *sums = chunks == 1 ? scratch : rest;
  const char* error = sum_chunks(arrays, count, true, sums, place.stream);
  while (error == nullptr && chunks > 1) {
    const Values level = {sums, chunks, DType::float64};
    rest += chunks;
    chunks = sum_chunks_of(chunks);
    sums = chunks == 1 ? scratch : rest;
    error = sum_chunks(&level, 1, false, sums, place.stream);
  }
  return error;
}

const char* run_clip(const CudaClip& clip, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return launch<ClipKernel>(clip, 1, place.stream);
}

const char* run_advance(const CudaCounter* counters, int64_t count, const float* found_inf,
                        const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return for_numbers(Count{}, counters, count, found_inf, place.stream);
}

const char* run_multiply(const CudaStep& step, const CudaProduct* products, int64_t count,
                         const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return multipliers[step.rule](step, products, count, place.stream);
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
