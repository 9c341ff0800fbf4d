#!/usr/bin/env bash
# Cross-compiles the kernels for 64-bit Arm and checks them against the committed hashes under qemu.
# Needs g++-aarch64-linux-gnu, qemu-user, cmake and ninja.
#
#     scripts/neon.sh          by GCC, with OpenMP
#     scripts/neon.sh clang    by clang and without OpenMP, as macOS would have it (docs/platforms.md)
set -euo pipefail
cd "$(dirname "$0")/.."
preset=neon${1:+-$1}
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset"
ctest --test-dir "build/$preset" -j "$(nproc)" --output-on-failure
