# csrc/cuda, compiled by nvcc: libfastopt_cuda.so, which the extension loads when it is needed.
# tests/cpp compiles the same files with the C++ compiler, for tests without a GPU.
set(FASTOPT_CUDA AUTO CACHE STRING "Build the CUDA library: ON, OFF, or AUTO (where nvcc works)")
set_property(CACHE FASTOPT_CUDA PROPERTY STRINGS AUTO ON OFF)

set(FASTOPT_CUDA_SOURCES csrc/cuda/dropout.cu csrc/cuda/half_steps.cu csrc/cuda/library.cu
  csrc/cuda/packed_steps.cu csrc/cuda/programs.cu csrc/cuda/steps.cu csrc/cuda/tail.cu)
include(${CMAKE_CURRENT_LIST_DIR}/Nvcc.cmake)
list(TRANSFORM FASTOPT_CUDA_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/)

function(fastopt_cuda_options name)
  target_compile_definitions(${name} PRIVATE FASTOPT_TARGET=cuda FASTOPT_SIMD_SCALAR)
  target_link_libraries(${name} PRIVATE fastopt_numerics)
endfunction()

if(NOT FASTOPT_CUDA)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
set(trouble "")
if(NOT CMAKE_CUDA_COMPILER)
  set(trouble "no nvcc that works")
else()
  fastopt_ask_nvcc("${CMAKE_CUDA_COMPILER}" nvcc_version nvcc_architectures)
  if(nvcc_version STREQUAL "")
    set(trouble "${CMAKE_CUDA_COMPILER} is no nvcc")
  elseif(nvcc_version VERSION_LESS FASTOPT_OLDEST_NVCC)
    set(trouble "${CMAKE_CUDA_COMPILER} is of CUDA ${nvcc_version}, older than ${FASTOPT_OLDEST_NVCC}")
  endif()
endif()
if(NOT trouble STREQUAL "" AND FASTOPT_CUDA STREQUAL "AUTO")
  message(STATUS "fastopt: no CUDA library (FASTOPT_CUDA=AUTO, and ${trouble})")
  return()
elseif(NOT trouble STREQUAL "")
  message(FATAL_ERROR "fastopt: no CUDA library can be built (FASTOPT_CUDA=${FASTOPT_CUDA}, and ${trouble})")
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${nvcc_architectures})
  message(STATUS "fastopt: CUDA library for ${nvcc_architectures} (nvcc ${nvcc_version})")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

add_library(fastopt_cuda MODULE ${FASTOPT_CUDA_SOURCES})
fastopt_cuda_options(fastopt_cuda)
target_compile_options(fastopt_cuda PRIVATE -Xfatbin=-compress-all)  # a fifth of the size
set_target_properties(fastopt_cuda PROPERTIES
  CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_link_options(fastopt_cuda PRIVATE
  -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/cuda_exports.map)
install(TARGETS fastopt_cuda DESTINATION fastopt)
