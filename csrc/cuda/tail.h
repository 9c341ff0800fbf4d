// What surrounds a step on a device: the sum of squares of its gradients, the factor that comes of
// it, and the numbers that count steps.
#pragma once

#include <stdint.h>

#include "cpu/norm.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "numeric/clip.h"
#include "simd/scalar.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// The same tree as on the CPU (cpu/sum.h): a warp sums up a chunk, each thread one of the 32 lanes.
struct SumKernel {
  static constexpr int lanes = 32, warps = block_threads / lanes;

  struct Entry {
    Values values;
    uint32_t first_chunk;
  };
  struct Args {
    static constexpr int capacity = (parameter_bytes - 32) / sizeof(Entry);
    double* sums;  // of each chunk
    int64_t chunks;
    bool squares;
    int count;
    Entry entries[capacity];
  };
  struct Shared {
    double lane[block_threads];
  };

  static FASTOPT_DEVICE void run(const Args& args, Shared& shared, const Block& block) {
    const int64_t first = block.index * warps;
    block.each([&](int thread) {
      const int64_t chunk = first + thread / lanes;
      shared.lane[thread] = chunk < args.chunks ? lane_sum(args, chunk, thread % lanes) : 0;
    });
    for (int half = lanes / 2; half > 0; half /= 2) {
      block.each([&](int thread) {
        double* const lane = &shared.lane[thread];
        if (thread % lanes < half) lane[0] = lane[0] + lane[half];
      });
    }
    block.each([&](int thread) {
      const int64_t chunk = first + thread / lanes;
      if (thread % lanes == 0 && chunk < args.chunks) args.sums[chunk] = shared.lane[thread];
    });
  }

 private:
  static FASTOPT_DEVICE double lane_sum(const Args& args, int64_t chunk, int lane) {
    const Entry& entry = args.entries[entry_at(args.entries, args.count, chunk)];
    const int64_t begin = (chunk - entry.first_chunk) * sum_chunk;
    const int64_t rest = entry.values.size - begin;
    const int count = static_cast<int>(rest < sum_chunk ? rest : sum_chunk);
    const void* data = entry.values.data;
    switch (entry.values.dtype) {
      case DType::float64:
        return sum_of(static_cast<const double*>(data) + begin, count, lane, args.squares);
      case DType::bfloat16:
        return sum_of(static_cast<const bfloat16*>(data) + begin, count, lane, true);
      case DType::float16:
        return sum_of(static_cast<const float16*>(data) + begin, count, lane, true);
      default:
        return sum_of(static_cast<const float*>(data) + begin, count, lane, true);
    }
  }

  static FASTOPT_DEVICE double widened(double x) { return x; }
  template <class Stored>
  static FASTOPT_DEVICE double widened(Stored x) {
    return Vec<float>::load(&x).value;
  }

  // Of every 32nd element from `i` on, in their order; several are on their way at once.
  template <class Stored>
  static FASTOPT_DEVICE double sum_of(const Stored* x, int count, int i, bool squares) {
    constexpr int ahead = 8;
    double sum = 0;
    const auto add = [&sum, squares](double v) { sum = sum + (squares ? v * v : v); };
    for (; i + (ahead - 1) * lanes < count; i += ahead * lanes) {
      Stored next[ahead];
      for (int k = 0; k < ahead; ++k) next[k] = x[i + k * lanes];
      for (int k = 0; k < ahead; ++k) add(widened(next[k]));
    }
    for (; i < count; i += lanes) add(widened(x[i]));
    return sum;
  }
};

// One thread's work.
struct ClipKernel {
  using Args = CudaClip;
  struct Shared {};

  static FASTOPT_DEVICE void run(const CudaClip& args, Shared&, const Block& block) {
    block.each([&](int thread) {
      if (thread != 0) return;
      const Clip clip(args.squares == nullptr ? 0 : *args.squares, args.max_norm,
                      read(args.grad_scale));
      args.result->norm = clip.norm;
      args.result->factor = clip.factor;
    });
  }
};

// What becomes of numbers of the states with a step, a thread each.
template <class Act>
struct NumbersKernel {
  struct Args {
    static constexpr int capacity =
        (parameter_bytes - sizeof(Act) - 32) / sizeof(typename Act::Entry);
    Act act;
    const float* found_inf;
    int count;
    typename Act::Entry entries[capacity];
  };
  struct Shared {};
  static_assert(sizeof(Args) <= parameter_bytes);

  static FASTOPT_DEVICE void run(const Args& args, Shared&, const Block& block) {
    block.each([&](int thread) {
      const int64_t i = block.index * block_threads + thread;
      if (i >= args.count || (args.found_inf != nullptr && *args.found_inf != 0)) return;
      args.act(args.entries[i]);
    });
  }
};

// Launches it over any number of entries.
template <class Act>
const char* for_numbers(const Act& act, const typename Act::Entry* entries, int64_t count,
                        const float* found_inf, void* stream) {
  using Kernel = NumbersKernel<Act>;
  typename Kernel::Args args;
  args.act = act;
  args.found_inf = found_inf;
  for (int64_t i = 0; i < count; i += args.count) {
    const int64_t rest = count - i;
    constexpr int capacity = Kernel::Args::capacity;
    args.count = static_cast<int>(rest < capacity ? rest : capacity);
    for (int k = 0; k < args.count; ++k) args.entries[k] = entries[i + k];
    const int64_t blocks = (args.count + block_threads - 1) / block_threads;
    if (const char* error = launch<Kernel>(args, blocks, stream)) return error;
  }
  return nullptr;
}

// A counter's next number.
struct Count {
  using Entry = CudaCounter;

  template <class T>
  FASTOPT_DEVICE static void advance(void* at, const CudaCounter& counter) {
    T& number = *static_cast<T*>(at);
    number = static_cast<T>(counter.factor) * number + static_cast<T>(counter.term);
  }

  FASTOPT_DEVICE void operator()(const CudaCounter& counter) const {
    void* const at = counter.number.at;
    switch (counter.number.type) {
      case CudaNumber::Type::float32:
        advance<float>(at, counter);
        break;
      case CudaNumber::Type::float64:
        advance<double>(at, counter);
        break;
      case CudaNumber::Type::int64:
        *static_cast<int64_t*>(at) += 1;
        break;
      case CudaNumber::Type::value:
        break;
    }
  }
};

// A number that a parameter keeps, of the program that has stepped it.
struct Keep {
  struct Entry {
    const double *due, *number;
    CudaNumber to;
  };

  FASTOPT_DEVICE void operator()(const Entry& entry) const {
    if (*entry.due == 0) return;
    if (entry.to.type == CudaNumber::Type::float64) {
      *static_cast<double*>(entry.to.at) = *entry.number;
    } else {
      *static_cast<float*>(entry.to.at) = static_cast<float>(*entry.number);
    }
  }
};

// A step's factor to a product.
template <class Rule>
struct Multiply {
  using Entry = CudaProduct;
  typename Rule::Options options;

  FASTOPT_DEVICE void operator()(const CudaProduct& entry) const {
    if (entry.product.type == CudaNumber::Type::float64) {
      advance(static_cast<double*>(entry.product.at), read(entry.step));
    } else {
      advance(static_cast<float*>(entry.product.at), read(entry.step));
    }
  }

 private:
  template <class Stored>
  FASTOPT_DEVICE void advance(Stored* product, double step) const {
    *product = next_product<Rule>(*product, options, step);
  }
};

FASTOPT_TARGET_END
