#!/usr/bin/env bash
# Builds the CUDA library and checks what can be checked of it without a GPU: that its PTX has no
# fused multiply-add and only correctly rounded divisions and roots, that no kernel spills, that it
# exports nothing but its face, and that it loads where there is no driver; for an H100 (90) that no
# family of kernels falls behind its row in docs/cuda.md (scripts/machine_code.py --write renews them).
#
#     scripts/check_cuda.sh [architectures]     default: every one that is supported
#
# Needs nvcc, cmake and ninja, and for 90 cuobjdump and nvdisasm, which PyPI has
# (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm); leaves build/cuda/libfastopt_cuda.so.
set -euo pipefail
cd "$(dirname "$0")/.."
architectures=${1:-75-real;80;86-real;89-real;90-real;100-real;103-real;110-real;120-real;121-real}
build=build/cuda
kept=$PWD/$build/kept
rm -rf "$build"
mkdir -p "$kept"

cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFASTOPT_BINDINGS=OFF \
  -DFASTOPT_CUDA=ON -DFASTOPT_WARNINGS_AS_ERRORS=ON -DCMAKE_CUDA_ARCHITECTURES="$architectures" \
  -DCMAKE_CUDA_FLAGS="--keep --keep-dir=$kept -Xptxas=-v" >/dev/null
log=$build/build.log
cmake --build "$build" --target fastopt_cuda --verbose >"$log" 2>&1 || { tail -50 "$log"; exit 1; }

fail() { printf 'check_cuda: %s\n' "$1" >&2; exit 1; }

shopt -s nullglob
ptx=("$kept"/*.ptx)
((${#ptx[@]})) || fail "no PTX was kept"
grep -hoE '\b(div|sqrt|fma|rcp|rsqrt)(\.[a-z0-9]+)+' "${ptx[@]}" | sort | uniq -c >"$build/arithmetic"
cat "$build/arithmetic"
grep -qE 'div\.rn\.f32' "$build/arithmetic" || fail "no division found: is this the PTX?"
# rcp.rn is 1 / x, rounded to nearest.
if grep -E '(fma|rsqrt)\.|rcp\.(approx|r[^n])|approx|\.full|\.ftz' "$build/arithmetic"; then
  fail "arithmetic that is not IEEE's"
fi
grep -q 'bytes spill stores' "$log" || fail "ptxas told nothing of spills"
if grep -E '[1-9][0-9]* bytes (stack frame|spill)' "$log"; then fail "a kernel spills"; fi

library=$build/libfastopt_cuda.so
exported=$(nm -D --defined-only "$library" | awk '{print $3}')
[ "$exported" = fastopt_cuda_face ] || fail "exports $exported"
if readelf -d "$library" | grep NEEDED | grep -vE 'lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so|ld-linux'; then
  fail "needs more than the C and C++ libraries"
fi
python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1]).fastopt_cuda_face()' "$library"
# What the machine code of an H100 is made of, held against the table in docs/cuda.md.
if [[ $architectures == *90* ]]; then python3 scripts/machine_code.py "$library"; fi
printf 'check_cuda: %s, %d kernels, %s\n' "$architectures" \
  "$(grep -c 'Compiling entry function' "$log")" "$(du -h "$library" | cut -f1)"
