#!/usr/bin/env bash
# What takes too long for every change: the full verification and the tests marked slow.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m fastopt verify
python -m pytest -m slow
