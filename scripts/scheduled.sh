#!/usr/bin/env bash
# What takes too long for every change: the full verification, the tests marked slow, wheels of every Python
# beside releases of torch and NumPy, offload engines, builds without OpenMP, the CUDA library
# for every architecture, every CPU target by clang and under sanitizers, and under these the tests of
# masters, random rounding, 8-bit states and dropout, and a hundred times as many random calls.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m fastopt verify
python -m pytest -m slow
scripts/matrix.sh
# The recipes of docs/offload.md. DeepSpeed compiles its C++ when it is needed, and asks torch for how.
python -m pip install -q -c constraints.txt wheel setuptools
DS_BUILD_OPS=0 python -m pip install -q --no-build-isolation -c constraints.txt "deepspeed" "torchao"
python -m pytest tests/docs/test_offload.py
python -m pip install -q -c constraints.txt schedulefree pytorch-optimizer torch-optimi
python -m pytest tests/rules/test_rules_peers.py  # the library beside packages that others use
# In an environment of its own: timm brings torchvision, which breaks others where it does not fit torch.
timm=$(mktemp -d)
python -m venv "$timm"
"$timm/bin/python" -m pip install -q -c constraints.txt ".[test,timm]"
"$timm/bin/python" -m pytest tests/frameworks/test_by_a_string.py -k timm
rm -r "$timm"
FASTOPT_TEST_DEVICE=cpu python -m pytest -m cuda  # CUDA's kernels, walked on the CPU
if command -v nvcc >/dev/null; then scripts/check_cuda.sh; fi
export FASTOPT_CPU_TARGETS=  # all of them
scripts/clang.sh
scripts/neon.sh clang
scripts/no_openmp.sh
python -m pytest -m slow tests/docs/test_adding_an_optimizer.py
scripts/sanitize.sh
scripts/sanitize.sh tests/optim/test_masters.py tests/optim/test_stochastic_rounding.py tests/optim/test_int8_state.py \
  tests/kernels/test_dropout_kernels.py tests/kernels/test_storage_kernels.py
FASTOPT_FUZZ_CALLS=100000 scripts/sanitize.sh tests/kernels/test_fuzz_kernels.py tests/optim/test_fuzz_steps.py
