#!/usr/bin/env bash
# All that only a GPU can show: the tests marked cuda, verify, compute-sanitizer and the bench there.
#
#     scripts/gpu_check.sh FOLDER [STEP...]     log.txt, summary.txt, JSON and plot go to FOLDER
#
# STEPs are tests, verify, memcheck, racecheck and bench; all of them if none is named, which takes
# about 8 minutes on an H100 with 16 CPUs. fastopt is built first, each time. Needs CUDA's nvcc, a C++
# compiler, and a Python with its headers, torch (of CUDA), CMake, ninja, pybind11, scikit-build-core,
# pytest, pytest-xdist, hypothesis, ml_dtypes, rich and matplotlib; no network: dlpack.h is torch's
# own. Each step goes on where one before it failed; the exit status is 1 if one did.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:?usage: scripts/gpu_check.sh FOLDER [STEP...]}"
out=$(cd "$1" && pwd)
shift
wanted=" machine build ${*:-tests verify memcheck racecheck bench} "
cd "$root" || exit
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python3}
export PYTHONPATH="$scratch/site" PYTHONUNBUFFERED=1
: >"$out/summary.txt"
: >"$out/log.txt"
failed=0

# step NAME SECONDS COMMAND...: its output goes to log.txt, a line on it to summary.txt.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0 line
  shift 2
  [[ $wanted == *" $name "* ]] || return 0
  printf '== %s\n' "$name" | tee -a "$out/log.txt"
  timeout "$limit" "$@" >"$scratch/log" 2>&1 || status=$?
  cat "$scratch/log" >>"$out/log.txt"
  case $status in
    0) line="passed" ;;
    124) line="FAILED: not done after $limit s" ;;
    *) line="FAILED: exit status $status" ;;
  esac
  if ((status)); then failed=1; tail -n 25 "$scratch/log"; fi
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$line" | tee -a "$out/summary.txt"
}

tests=(-m pytest -q -p no:cacheprovider -m cuda tests/cuda/test_cuda_gpu.py)
some="dropout_has or (steps_have and (AdamW or NAdam) and plain and float32)"
some+=" or (storages and AdamW) or the_norm"

about='import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
step machine 60 sh -c 'nvidia-smi && nvcc --version && "$0" -c "$1"' "$python" "$about"
step build 240 "$python" -m pip install --no-build-isolation --no-deps --no-index --upgrade \
  --target "$scratch/site" -C build-dir="$scratch/build" -C cmake.define.FASTOPT_CUDA=ON \
  -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native "$root"
step tests 240 "$python" "${tests[@]}"
step verify 120 "$python" -m fastopt verify --quick --device cuda --json "$out/verify.json"
# Without torch's cache of memory each tensor is an allocation, whose ends memcheck knows.
step memcheck 180 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck \
  --error-exitcode 9 --target-processes all "$python" "${tests[@]}" -k "$some"
step racecheck 120 compute-sanitizer --tool racecheck \
  --error-exitcode 9 --target-processes all "$python" "${tests[@]}" -k "$some"
name=$(date +%F)-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
step bench 180 "$python" -m fastopt bench --device cuda \
  --json "$out/$name.json" --plot "$out/$name.png"
cat "$out/summary.txt"
exit $failed
