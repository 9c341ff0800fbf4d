// The namespace in which rules, vectors and loops live.
//
// Their headers are compiled once per target (scalar, avx2, avx512, neon, and "host" for the
// bindings), each time with other machine flags. Two levels of namespace keep the copies apart: the
// target's name for people and debuggers, and an anonymous one that makes every function and
// template instance local to its object file. Without the second, templates would become weak
// symbols, and the linker would be free to hand a baseline caller the AVX-512 copy.
#pragma once

#ifndef FASTOPT_TARGET
#error "FASTOPT_TARGET must name the target that this file is compiled for"
#endif

#define FASTOPT_TARGET_BEGIN \
  namespace fastopt {        \
  namespace FASTOPT_TARGET { \
  namespace {
#define FASTOPT_TARGET_END \
  }                        \
  }                        \
  }

#ifdef __CUDACC__
#define FASTOPT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTOPT_HOST_DEVICE inline __attribute__((always_inline))
#endif
