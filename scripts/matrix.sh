#!/usr/bin/env bash
# Wheels of several Pythons beside several releases of torch and NumPy: each pair in a fresh environment
# whose PATH has no compiler, with `verify --quick` and a core of the tests; one pair with all of them, of which
# some do compile.
#
#     scripts/matrix.sh [PYTHON:TORCH:NUMPY ...]     these pairs, else the list below
#     WHEELS=FOLDER scripts/matrix.sh                with the wheels there instead of new ones
#     TESTS="tests/kernels" scripts/matrix.sh        other tests
#
# Pairs whose Python is not at hand are left out, and said so; one has to run. Packages come by uv, which links them
# from its cache: some six gigabytes a release of torch.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

pairs=("$@")
((${#pairs[@]})) || pairs=(
  3.10:2.10.0:2.0.2 3.10:2.14.1:2.2.6
  3.11:2.11.0:2.1.3 3.11:2.13.0:2.4.6
  3.12:2.10.0:2.0.2 3.12:2.12.1:2.3.5 3.12:2.15.0:2.4.6
  3.13:2.10.0:2.2.6 3.13:2.14.1:2.4.6 3.13:2.15.0:2.5.5
  3.14:2.13.0:2.4.6 3.14:2.15.0:2.5.5
  3.14t:2.15.0:2.5.5)
all=3.11:2.13.0:2.4.6  # what constraints.txt has: every test

# What hangs on releases of Python, torch or NumPy: where torch keeps things, hooks, pickles, dtypes.
core=(tests/optim/test_tensor_layout.py tests/optim/test_stepped.py tests/optim/test_report.py
  tests/optim/test_optim_checkpoint.py tests/optim/test_optim_around.py tests/frameworks/test_torch_hooks.py
  tests/frameworks/test_schedulers.py tests/frameworks/test_convert.py tests/frameworks/test_autocast.py
  tests/kernels/test_kernel_hostile.py tests/nn/test_nn_autograd.py tests/nn/test_nn_graphs.py tests/installed/test_kernel_hashes.py)
read -ra core <<<"${TESTS:-${core[*]}}"

declare -A at_hand
for it in $("$root/scripts/pythons.sh"); do at_hand[${it##*/python}]=$it; done
wheels=${WHEELS:-$scratch/dist}
if [ -z "${WHEELS:-}" ]; then
  asked=()
  for version in $(printf '%s\n' "${pairs[@]%%:*}" | sort -u); do asked+=(${at_hand[$version]:-}); done
  if ((${#asked[@]})); then PYTHON=${asked[*]} "$root/scripts/build_wheel.sh" "$wheels"; fi
fi
python3 -m venv "$scratch/tools"
"$scratch/tools/bin/python" -m pip install -q uv
uv() { "$scratch/tools/bin/uv" --quiet "$@"; }
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1

failed=0 ran=0
report=$scratch/report
printf '| Python | torch | NumPy | verify | tests |\n|---|---|---|---|---|\n' >"$report"
for pair in "${pairs[@]}"; do
  IFS=: read -r version torch numpy <<<"$pair"
  python=${at_hand[$version]:-} wheel=""
  for it in "$wheels"/fastopt-*-cp*-"cp${version/./}"-*.whl; do if [ -f "$it" ]; then wheel=$it; fi; done
  if [ -z "$python" ] || [ -z "$wheel" ]; then
    printf '| %s | %s | %s | no such Python here | |\n' "$version" "$torch" "$numpy" >>"$report"
    continue
  fi
  ran=$((ran + 1))
  env=$scratch/env
  path=$env/bin
  packages=("$wheel" pytest pytest-xdist hypothesis ml_dtypes threadpoolctl rich)
  tests=("${core[@]}")
  if [ "$pair" = "$all" ] && [ -z "${TESTS:-}" ]; then
    path=$path:$PATH packages=("${wheel}[test]") tests=(tests)
  fi
  rm -rf "$env"
  uv venv --python "$python" "$env"
  uv pip install --only-binary :all: --python "$env" "torch==$torch" "numpy==$numpy" "${packages[@]}"
  run() { (cd "$root" && env -i PATH="$path" HOME="$scratch" "$env/bin/python" "$@"); }
  verified="every bit"
  path=$env/bin run -m fastopt verify --quick >"$scratch/verify.log" 2>&1 || { verified=FAILED failed=1; tail -20 "$scratch/verify.log"; }
  run -m pytest -q -p no:cacheprovider -n "${WORKERS:-2}" "${tests[@]}" >"$scratch/tests.log" 2>&1 || { failed=1; tail -40 "$scratch/tests.log"; }
  printf '| %s | %s | %s | %s | %s |\n' "$version" "$torch" "$numpy" "$verified" "$(tail -1 "$scratch/tests.log" | tr -d =)" >>"$report"
  tail -1 "$report"
done
cat "$report"
((ran && !failed))
