// Launches what surrounds a step.
#include "cuda/launchers.h"
#include "cuda/tail.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

int64_t sum_chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

// The sums of all chunks of these arrays, one after another.
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

}  // namespace

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

const char* run_advance(const CudaNumber* counters, int64_t count, const float* found_inf,
                        const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  AdvanceKernel::Args args;
  args.found_inf = found_inf;
  for (int64_t i = 0; i < count; i += args.count) {
    const int64_t rest = count - i;
    constexpr int capacity = AdvanceKernel::Args::capacity;
    args.count = static_cast<int>(rest < capacity ? rest : capacity);
    for (int k = 0; k < args.count; ++k) args.counters[k] = counters[i + k];
    const int64_t blocks = (args.count + block_threads - 1) / block_threads;
    if (const char* error = launch<AdvanceKernel>(args, blocks, place.stream)) return error;
  }
  return nullptr;
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
