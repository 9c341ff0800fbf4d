// How a kernel is launched, on a GPU or, compiled by a C++ compiler, as loops over every block and
// thread of the same launch. This file is all that differs between the two.
//
// A kernel is a struct with Args (its parameters), Shared (what a block's threads share, without
// constructors) and run(args, shared, block). What stands in run between two phases is done by all
// threads alike; block.each(act) is a phase: act(thread) for each of them, and none goes on before
// all are done. A thread may read in a phase what others have written in phases before. With
// block.each_warp(act), act(warp) is done by each warp, which has phases of its own, warp.each: its
// threads keep variables (Own) from one to the next, and see each other's by what Warp has for it.
#pragma once

#include <stdint.h>

#include "cuda/face.h"
#include "target.h"

#ifdef __CUDACC__
#define FASTOPT_DEVICE __device__ __forceinline__
#else
#include <stdlib.h>

#include <functional>
#include <vector>
#define FASTOPT_DEVICE inline
#endif

namespace fastopt {

constexpr int block_threads = 256;
constexpr int warp_threads = 32;
constexpr int block_warps = block_threads / warp_threads;

// On a multiprocessor, at least, if a kernel does not say otherwise (Kernel::resident). Asked for
// too many, or left to itself, the compiler keeps some numbers in memory to save registers.
template <class Kernel, class = void>
constexpr int resident_blocks = 2;
template <class Kernel>
constexpr int resident_blocks<Kernel, decltype(void(Kernel::resident))> = Kernel::resident;

// Blocks less where the compiler takes more registers than for Ampere to Hopper: for Turing, which
// converts nothing to 16 bits, and for Blackwell.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int fewer_blocks = 2;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int fewer_blocks = 1;
#else
constexpr int fewer_blocks = 0;
#endif

#ifndef __CUDACC__
// For tests: which blocks are walked, and in which order they and their threads come.
struct WalkOrder {
  int64_t first_block = 0, last_block = INT64_MAX;
  bool backwards = false;
};
extern WalkOrder walk_order;

// For tests: what a device and its driver would do.
struct WalkEvents {
  bool captures = false;              // a graph, all that is launched
  int64_t launches_left = INT64_MAX;  // before they fail
  int (*asked)() = nullptr;           // at each launch
  int answers = 0;                    // the sum of what it said
};
extern WalkEvents walk_events;

// For tests: the launches that a graph has captured, for it to be replayed.
extern std::vector<std::function<void()>> walk_graph;
#endif

inline thread_local int64_t launches_so_far = 0;

}  // namespace fastopt

FASTOPT_TARGET_BEGIN

// A variable of each of a warp's threads: on a GPU in its registers.
template <class T>
class Own {
 public:
#ifdef __CUDACC__
  FASTOPT_DEVICE T& operator[](int) { return its_; }

 private:
  T its_;
#else
  T& operator[](int lane) { return all_[lane]; }

 private:
  T all_[warp_threads];
#endif
};

struct Warp {
  int number;  // in its block

  // act(lane) for each thread.
  template <class Act>
  FASTOPT_DEVICE void each(Act act) const {
#ifdef __CUDACC__
    act(static_cast<int>(threadIdx.x % warp_threads));
#else
    for (int i = 0; i < warp_threads; ++i) act(walk_order.backwards ? warp_threads - 1 - i : i);
#endif
  }

  // Makes the largest of all threads' numbers of each.
  FASTOPT_DEVICE void spread_largest(Own<uint32_t>& number) const {
#if !defined(__CUDACC__)
    uint32_t largest = 0;
    each([&](int lane) { largest = number[lane] > largest ? number[lane] : largest; });
    each([&](int lane) { number[lane] = largest; });
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    number[0] = __reduce_max_sync(~0u, number[0]);
#else
    for (int distance = warp_threads / 2; distance > 0; distance /= 2) {
      const uint32_t others = __shfl_xor_sync(~0u, number[0], distance);
      number[0] = number[0] > others ? number[0] : others;
    }
#endif
  }

  // What a thread had when the phase began. All threads ask at once, each for one of its own
  // choice.
  FASTOPT_DEVICE uint32_t of(Own<uint32_t>& number, int lane) const {
#ifdef __CUDACC__
    return __shfl_sync(~0u, number[0], lane);
#else
    return number[lane];
#endif
  }
};

struct Block {
  int64_t index;

  template <class Act>
  FASTOPT_DEVICE void each(Act act) const {
#ifdef __CUDACC__
    act(static_cast<int>(threadIdx.x));
    __syncthreads();
#else
    for (int i = 0; i < block_threads; ++i) act(walk_order.backwards ? block_threads - 1 - i : i);
#endif
  }

  template <class Act>
  FASTOPT_DEVICE void each_warp(Act act) const {
#ifdef __CUDACC__
    act(Warp{static_cast<int>(threadIdx.x / warp_threads)});
    __syncthreads();
#else
    for (int i = 0; i < block_warps; ++i) {
      act(Warp{walk_order.backwards ? block_warps - 1 - i : i});
    }
#endif
  }
};

// `at`, which must be a multiple of `bytes`: a GPU's loads and stores of several elements trap
// where it is not, and so does the walk.
template <int bytes, class Element>
FASTOPT_DEVICE Element* aligned(Element* at) {
#ifndef __CUDACC__
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) abort();
#endif
  return static_cast<Element*>(__builtin_assume_aligned(at, bytes));
}

// The number itself, of which the compiler does not know where it comes from: it would else find
// it out again wherever it is asked for, in predicates of their own.
FASTOPT_DEVICE int opaque(int number) {
  asm("" : "+r"(number));
  return number;
}

#ifdef __CUDACC__

inline const char* text_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Makes a device the current one for a scope.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device), before_(device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && device_ != before_) error_ = cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (device_ != before_) cudaSetDevice(before_);  // which may make a context there
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  const char* error() const { return text_of(error_); }

 private:
  const int device_;
  int before_;
  cudaError_t error_;
};

template <class Kernel>
__global__ void __launch_bounds__(block_threads, resident_blocks<Kernel>)
    enter(const __grid_constant__ typename Kernel::Args args) {
  __shared__ typename Kernel::Shared shared;
  Kernel::run(args, shared, Block{blockIdx.x});
}

// By a function and not by <<< >>>, whose error would have to be asked for and might be an older
// one.
template <class Kernel>
const char* launch(const typename Kernel::Args& args, int64_t blocks, void* stream) {
  void* parameters[] = {const_cast<typename Kernel::Args*>(&args)};
  const char* error = text_of(cudaLaunchKernel(enter<Kernel>, dim3(static_cast<unsigned>(blocks)),
                                               dim3(block_threads), parameters, 0,
                                               static_cast<cudaStream_t>(stream)));
  if (error == nullptr) ++launches_so_far;
  return error;
}

// Why the driver takes no launch of a whole table.
inline const char* driver_trouble() {
  constexpr int oldest = 12010;
  int version = 0;
  const cudaError_t error = cudaDriverGetVersion(&version);
  if (error != cudaSuccess) return text_of(error);
  return version < oldest ? "the CUDA driver is older than 12.1, which 32 KB of parameters need"
                          : nullptr;
}

inline const char* captures(const CudaPlace& place, bool& answer) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(place.stream), &status);
  answer = status != cudaStreamCaptureStatusNone;
  return text_of(error);
}

#else

inline int device_count() { return 1; }

struct OnDevice {
  explicit OnDevice(int) {}
  const char* error() const { return nullptr; }
};

inline const char* driver_trouble() { return nullptr; }

inline const char* captures(const CudaPlace&, bool& answer) {
  answer = walk_events.captures;
  return nullptr;
}

template <class Kernel>
void walk(const typename Kernel::Args& args, int64_t blocks) {
  const int64_t first = walk_order.first_block;
  const int64_t last = blocks < walk_order.last_block ? blocks : walk_order.last_block;
  for (int64_t i = first; i < last; ++i) {
    typename Kernel::Shared shared;
    __builtin_memset(&shared, 0xa5, sizeof shared);  // what no phase has written is anything
    Kernel::run(args, shared, Block{walk_order.backwards ? last - 1 - (i - first) : i});
  }
}

template <class Kernel>
const char* launch(const typename Kernel::Args& args, int64_t blocks, void*) {
  if (walk_events.asked != nullptr) walk_events.answers += walk_events.asked();
  if (walk_events.launches_left-- <= 0) return "the walk's launch failed";
  ++launches_so_far;
  if (walk_events.captures) walk_graph.push_back([=] { walk<Kernel>(args, blocks); });
  walk<Kernel>(args, blocks);
  return nullptr;
}

#endif

FASTOPT_TARGET_END
