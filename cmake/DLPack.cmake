# dlpack.h with the C exchange API (DLPack 1.3): from apache-tvm-ffi, a build requirement, or, where
# that is missing (a build without isolation), from the installed torch.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
"import importlib.util, pathlib
for package, folder in (('tvm_ffi', 'include/dlpack'), ('torch', 'include/ATen')):
    spec = importlib.util.find_spec(package)
    if spec and spec.origin:
        path = pathlib.Path(spec.origin).parent / folder
        if (path / 'dlpack.h').is_file():
            print(path)
            break"
  OUTPUT_VARIABLE FASTOPT_DLPACK_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT FASTOPT_DLPACK_DIR)
  message(FATAL_ERROR "dlpack.h not found: pip install apache-tvm-ffi (or torch >= 2.10).")
endif()
add_library(fastopt_dlpack INTERFACE)
target_include_directories(fastopt_dlpack SYSTEM INTERFACE ${FASTOPT_DLPACK_DIR})
