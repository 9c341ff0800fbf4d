#!/usr/bin/env bash
# Builds the extension without OpenMP and runs on it the tests of threads, of the kernels and of steps.
# Needs fastopt[test], pybind11, cmake, ninja.
#
#     [FASTOPT_CPU_TARGETS="avx2;avx512"] scripts/no_openmp.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v python)
cmake --preset no-openmp -DPython_EXECUTABLE="$python" -DFASTOPT_CPU_TARGETS="${FASTOPT_CPU_TARGETS-avx512}" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >/dev/null
cmake --build --preset no-openmp
ctest --test-dir build/no-openmp -j "$(nproc)" --output-on-failure

# The package as it is installed, with this extension in place of the installed one.
stage=build/no-openmp/stage
rm -rf "$stage" && mkdir -p "$stage"
cp -r python/fastopt "$stage/fastopt"
cp build/no-openmp/_C.*.so "$stage/fastopt/"
export PYTHONPATH=$stage${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import sys, fastopt; fastopt.info()["openmp_threads"] and sys.exit(
    f"{fastopt._C.__file__} is in the way: run this where fastopt is not installed editably")'
"$python" -m fastopt verify --quick

arguments=("$@")
((${#arguments[@]})) || arguments=(tests/installed/test_threads.py tests/kernels/test_kernels.py tests/optim/test_optim.py)
"$python" -m pytest -q -n auto -p no:cacheprovider "${arguments[@]}"
