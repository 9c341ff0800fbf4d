#!/usr/bin/env bash
# Cross-compiles the kernels for 64-bit Arm and checks them against the committed hashes under qemu.
# Needs g++-aarch64-linux-gnu, qemu-user, cmake and ninja.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset neon >/dev/null
cmake --build --preset neon
ctest --test-dir build/neon -j "$(nproc)" --output-on-failure
