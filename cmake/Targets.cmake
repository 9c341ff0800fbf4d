# csrc/cpu/target*.cpp, compiled once per CPU target with that target's machine flags.
add_library(fastopt_cpu STATIC csrc/cpu/dispatch.cpp csrc/cpu/dropout.cpp csrc/cpu/lbfgs.cpp csrc/cpu/norm.cpp
  csrc/cpu/normed.cpp csrc/cpu/parallel.cpp csrc/cpu/summed.cpp csrc/cpu/traced.cpp)
target_link_libraries(fastopt_cpu PUBLIC fastopt_numerics PRIVATE OpenMP::OpenMP_CXX)

# fastopt_add_target(name flags...): one copy of the kernels, in namespace fastopt::name.
# A rule's options are branches that do not change over the loop. GCC moves such branches out, into a
# loop for each answer, but by default only from loops shorter than ours (bench/NOTES.md, 2).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set_property(SOURCE csrc/cpu/target.cpp csrc/cpu/target_coded.cpp csrc/cpu/target_coded_halves.cpp
    APPEND PROPERTY COMPILE_OPTIONS --param=max-unswitch-level=3 --param=max-unswitch-insns=2000)
endif()

# These take nine tenths of a sanitized build. It does not optimize them, and looks for undefined
# behaviour where the same source has not been looked at: of the loops of codes in scalar's alone.
set_property(SOURCE csrc/cpu/target_halves.cpp csrc/cpu/target_coded.cpp csrc/cpu/target_coded_halves.cpp
  APPEND PROPERTY COMPILE_OPTIONS $<$<CONFIG:Debug>:-O0>)
set_property(SOURCE csrc/cpu/target_halves.cpp csrc/cpu/target_coded_halves.cpp
  APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=undefined)
set_property(SOURCE csrc/cpu/target_coded.cpp APPEND PROPERTY COMPILE_OPTIONS
  $<$<NOT:$<STREQUAL:$<TARGET_PROPERTY:NAME>,fastopt_target_scalar>>:-fno-sanitize=undefined>)

set(FASTOPT_CPU_TARGETS "" CACHE STRING
  "CPU targets to build besides scalar, such as avx2;avx512; empty for all of the processor's")

function(fastopt_add_target name)
  if(FASTOPT_CPU_TARGETS AND NOT name IN_LIST FASTOPT_CPU_TARGETS AND NOT name STREQUAL "scalar")
    return()
  endif()
  string(TOUPPER ${name} upper)
  add_library(fastopt_target_${name} OBJECT
    csrc/cpu/target.cpp csrc/cpu/target_halves.cpp csrc/cpu/target_coded.cpp
    csrc/cpu/target_coded_halves.cpp csrc/cpu/target_dropout.cpp csrc/cpu/target_normed.cpp
    csrc/cpu/target_program.cpp csrc/cpu/target_vectors.cpp)
  target_link_libraries(fastopt_target_${name} PRIVATE fastopt_numerics)
  target_compile_options(fastopt_target_${name} PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3> ${ARGN})
  target_compile_definitions(fastopt_target_${name}
    PRIVATE FASTOPT_TARGET=${name} FASTOPT_SIMD_${upper})
  target_sources(fastopt_cpu PRIVATE $<TARGET_OBJECTS:fastopt_target_${name}>)
  target_compile_definitions(fastopt_cpu PRIVATE FASTOPT_HAVE_${upper})
endfunction()

fastopt_add_target(scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  fastopt_add_target(avx2 -mavx2 -mf16c)
  # GCC 12 warns of its own avx512fintrin.h (GCC bug 105593).
  fastopt_add_target(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
                     -Wno-uninitialized -Wno-maybe-uninitialized)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  fastopt_add_target(neon)
endif()
