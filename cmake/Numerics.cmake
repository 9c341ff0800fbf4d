# The numerics flags, in one place; no file overrides them. docs/numerics.md says why.
add_library(fastopt_numerics INTERFACE)
target_include_directories(fastopt_numerics INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
set(numerics
  -ffp-contract=off      # no fused multiply-add: NumPy has none
  -fno-math-errno        # sqrt is one instruction
  -fno-trapping-math     # selects may become blends; values are the same
  -Wall -Wextra -Wno-ignored-attributes
  $<$<CXX_COMPILER_ID:Clang>:-Wno-bitwise-instead-of-logical>  # masks of one lane are bool
  $<$<CXX_COMPILER_ID:Clang>:-Wno-unknown-warning-option>      # GCC's
  $<$<BOOL:${FASTOPT_WARNINGS_AS_ERRORS}>:-Werror>)
set(cuda_numerics
  --fmad=false --prec-div=true --prec-sqrt=true --ftz=false
  -Xcompiler=-Wall,-Wextra,-ffp-contract=off  # rules are made by the host, too
  $<$<BOOL:${FASTOPT_WARNINGS_AS_ERRORS}>:--Werror=all-warnings>)
target_compile_options(fastopt_numerics INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${numerics}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_numerics}>")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^i.86$")
  message(FATAL_ERROR "fastopt needs a 64-bit target: x87 arithmetic is not correctly rounded.")
endif()
