// The vectors of the target that is being compiled. CMake sets exactly one FASTOPT_SIMD_ macro, and
// each of the files below offers:
//
// Vec<T>       of float and double: lanes, load, store, load_first and store_first (the last
// vector:
//              no byte past `count` elements is touched, and the other lanes read as 0),
//              construction from a scalar, + - * / unary -, sqrt, < >= !=, | on masks, and
//              select(mask, if_true, if_false). Vec<double> also loads floats; Vec<float> also
//              loads and stores bfloat16 and float16 (numeric/half.h). For dropout mask_at (from
//              bits, i a multiple of lanes), keep(mask, v) (0 elsewhere), and stream, a
//              store past the caches, where there is one, to an address aligned to the store.
// unfolded     keeps a load from being folded into a masked operation, which then takes twice as
//              long where the data comes from DRAM
// finish_streaming  after stores by stream
//
// BfloatPairs  twice as many bfloat16 as Vec<float> has lanes: those at even places and those at
// odd
//              ones, which are faster to load and store than one Vec at a time. A store asks that
//              the lower half of a NaN is 0, as it is of one that comes from bfloat16.
//              store_in_order stores one vector after the other instead, store with draws rounds by
//              these, which lie like the elements. Where loads_kept, load_kept gives 0 for elements
//              whose bit is not set; then it streams, too.
//
// store_both   two vectors one after the other as bfloat16, with care for every NaN of arithmetic,
//              to nearest or by draws: in simd/lanes.h for those without instructions for it
// load_split   and store_split: two vectors as two halves (numeric/split.h)
//
// Words64      a 32-bit word of random numbers in each 64-bit lane, since the multiplications give
// 64
//              bits (simd/lockstep.h)
// Words32      the bits of a Vec<float> (simd/codes.h)
#pragma once

#if defined(FASTOPT_SIMD_AVX512)
#include "simd/avx512.h"
#elif defined(FASTOPT_SIMD_AVX2)
#include "simd/avx2.h"
#elif defined(FASTOPT_SIMD_NEON)
#include "simd/neon.h"
#else
#include "simd/scalar.h"
#endif
