#!/usr/bin/env bash
# Builds the kernels with clang and checks them against the committed hashes. Needs clang, libomp-dev,
# cmake and ninja.
#
#     [FASTOPT_CPU_TARGETS="avx2"] scripts/clang.sh
#
# Of the CPU targets scalar and avx512, unless others are asked for: each takes about a minute to build.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset clang -DFASTOPT_CPU_TARGETS="${FASTOPT_CPU_TARGETS-avx512}" >/dev/null
cmake --build --preset clang
ctest --test-dir build/clang -j "$(nproc)" --output-on-failure
