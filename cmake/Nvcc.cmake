# What an nvcc can build fastopt's CUDA library for, by its version.
set(FASTOPT_OLDEST_NVCC 12.1)  # 32 KB of launch parameters

# Sets `version` to that of a compiler, empty where it is no nvcc, and `architectures` to Ampere,
# Hopper and both Blackwells, as far as it knows them, with PTX for what comes after the oldest.
function(fastopt_ask_nvcc compiler version architectures)
  execute_process(COMMAND "${compiler}" --version
    OUTPUT_VARIABLE told ERROR_QUIET RESULT_VARIABLE status)
  set(found "")
  if(status EQUAL 0 AND told MATCHES "release ([0-9]+\\.[0-9]+)")
    set(found ${CMAKE_MATCH_1})
  endif()
  set(known 80 90-real)
  if(found VERSION_GREATER_EQUAL 12.8)
    list(APPEND known 100-real 120-real)
  endif()
  set(${version} "${found}" PARENT_SCOPE)
  set(${architectures} "${known}" PARENT_SCOPE)
endfunction()
