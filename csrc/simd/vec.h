// Vec<T> of the target that is being compiled. CMake sets exactly one FASTOPT_SIMD_ macro.
//
// Every Vec offers: lanes, load, store, load_first and store_first (the tail: no byte past `count`
// elements is touched, and the other lanes read as 0), construction from a scalar, + - * / unary -,
// sqrt, < >= !=, | on masks, and select(mask, if_true, if_false). Vec<double> also loads floats;
// Vec<float> also loads and stores bfloat16 and float16 (numeric/storage.h).
//
// For dropout: mask_at (from packed bits, i a multiple of lanes), keep(mask, v) (0 elsewhere),
// unfolded (see vec_avx512.h), stream (a store past the caches, where the target has one, to
// an address aligned to the store) and finish_streaming; with FASTOPT_BFLOAT_PAIRS also BfloatPairs
// (see vec_avx512.h).
#pragma once

#if defined(FASTOPT_SIMD_AVX512)
#include "simd/vec_avx512.h"
#elif defined(FASTOPT_SIMD_AVX2)
#include "simd/vec_avx2.h"
#elif defined(FASTOPT_SIMD_NEON)
#include "simd/vec_neon.h"
#else
#include "simd/vec_scalar.h"
#endif
