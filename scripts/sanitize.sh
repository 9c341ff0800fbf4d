#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer and runs on it the
# kernels' replay and the tests that reach the C++ code. Needs fastopt[test], pybind11, cmake, ninja.
#
#     [FASTOPT_CPU_TARGETS="avx2;avx512"] scripts/sanitize.sh [PYTEST ARGUMENTS]
#
# Of the CPU targets scalar and avx2, unless others are asked for: with sanitizers each takes a minute
# or two to build.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v python)
cmake --preset asan -DPython_EXECUTABLE="$python" -DFASTOPT_CPU_TARGETS="${FASTOPT_CPU_TARGETS-avx2}" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >/dev/null
cmake --build --preset asan
ctest --test-dir build/asan -j "$(nproc)" --output-on-failure

# The package as it is installed, with the sanitized extension in place of the installed one.
stage=build/asan/stage
rm -rf "$stage" && mkdir -p "$stage"
cp -r python/fastopt "$stage/fastopt"
cp build/asan/_C.*.so "$stage/fastopt/"

# Leaks are Python's own business; torch's libraries are not built with the sanitizers.
sanitized() {
  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$stage" "$python" "$@"
}
sanitized -c 'import sys, fastopt._C as c; "asan" in c.__file__ or sys.exit(
    f"{c.__file__} is in the way: run this where fastopt is not installed editably")'

arguments=("$@")
((${#arguments[@]})) || arguments=(tests/kernels/test_kernels.py tests/kernels/test_kernel_errors.py
  tests/kernels/test_kernel_options.py tests/kernels/test_float_mode.py tests/optim/test_optim.py tests/optim/test_optim_atomic.py
  tests/optim/test_optim_layout.py tests/optim/test_optim_hostile.py tests/optim/test_optim_fallback.py tests/kernels/test_dropout_errors.py
  tests/kernels/test_lbfgs_kernels.py -k "not subprocess and not walk")
sanitized -m pytest -q -n auto -p no:cacheprovider "${arguments[@]}"
