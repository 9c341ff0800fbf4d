# csrc/cpu/target*.cpp, compiled once per CPU target with that target's machine flags, and way.cpp, once
# per target and way of storing.
add_library(fastopt_cpu STATIC csrc/cpu/copied.cpp csrc/cpu/dispatch.cpp csrc/cpu/dropout.cpp csrc/cpu/lbfgs.cpp
  csrc/cpu/norm.cpp csrc/cpu/normed.cpp csrc/cpu/parallel.cpp csrc/cpu/summed.cpp csrc/cpu/traced.cpp)
target_link_libraries(fastopt_cpu PUBLIC fastopt_numerics PRIVATE ${FASTOPT_THREADS})

# Those of csrc/cpu/kernel.h.
set(FASTOPT_WAYS float32 float64 bfloat16 mixed coded bfloat16_coded rounded split packed)

# A rule's options are branches that do not change over the loop. GCC moves such branches out, into a
# loop for each answer, but by default only from loops shorter than ours (bench/NOTES.md, 2). The other
# ways gain little by it (17).
set(FASTOPT_UNSWITCHED_WAYS float32 float64 coded bfloat16_coded)
set(FASTOPT_UNSWITCH "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(--param=max-unswitch-level=3 FASTOPT_UNSWITCHES_BY_LEVEL)  # its name in GCC 12
  if(FASTOPT_UNSWITCHES_BY_LEVEL)
    set(FASTOPT_UNSWITCH --param=max-unswitch-level=3 --param=max-unswitch-insns=2000)
  else()
    set(FASTOPT_UNSWITCH --param=max-unswitch-depth=3 --param=max-unswitch-insns=2000)
  endif()
endif()

# All but float32 and float64 take nine tenths of a sanitized build. It does not optimize them, and looks
# for undefined behaviour where the same source has not been looked at: of these in scalar's alone.
set(FASTOPT_SANITIZED_WAYS mixed coded)

set(FASTOPT_CPU_TARGETS "" CACHE STRING
  "CPU targets to build besides scalar, such as avx2;avx512; empty for all of the processor's")

# fastopt_add_target(name flags...): one copy of the kernels, in namespace fastopt::name.
function(fastopt_add_target name)
  if(FASTOPT_CPU_TARGETS AND NOT name IN_LIST FASTOPT_CPU_TARGETS AND NOT name STREQUAL "scalar")
    return()
  endif()
  string(TOUPPER ${name} upper)
  target_compile_definitions(fastopt_cpu PRIVATE FASTOPT_HAVE_${upper})
  add_library(fastopt_${name} OBJECT csrc/cpu/target.cpp csrc/cpu/target_dropout.cpp)
  set(libraries fastopt_${name})
  foreach(way IN LISTS FASTOPT_WAYS)
    set(library fastopt_${name}_${way})
    list(APPEND libraries ${library})
    add_library(${library} OBJECT csrc/cpu/way.cpp)
    target_compile_definitions(${library} PRIVATE FASTOPT_WAY=${way})
    if(way IN_LIST FASTOPT_UNSWITCHED_WAYS)
      target_compile_options(${library} PRIVATE ${FASTOPT_UNSWITCH})
    endif()
    if(NOT way MATCHES "^float")
      target_compile_options(${library} PRIVATE $<$<CONFIG:Debug>:-O0>)
      if(NOT name STREQUAL "scalar" OR NOT way IN_LIST FASTOPT_SANITIZED_WAYS)
        target_compile_options(${library} PRIVATE -fno-sanitize=undefined)
      endif()
    endif()
  endforeach()
  foreach(library IN LISTS libraries)
    target_link_libraries(${library} PRIVATE fastopt_numerics)
    target_compile_options(${library} PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3> ${ARGN})
    target_compile_definitions(${library} PRIVATE FASTOPT_TARGET=${name} FASTOPT_SIMD_${upper})
    target_sources(fastopt_cpu PRIVATE $<TARGET_OBJECTS:${library}>)
  endforeach()
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
