#!/usr/bin/env bash
# All that only a GPU can show: the tests marked cuda, verify, compute-sanitizer and the bench there.
#
#     scripts/gpu_check.sh FOLDER       logs, JSON, plot and summary.txt go to FOLDER
#
# Needs CUDA's nvcc, a C++ compiler, and a Python with torch (of CUDA), CMake, pybind11,
# scikit-build-core, pytest, rich and matplotlib; no network: dlpack.h is torch's own. fastopt is
# installed into FOLDER/site. About 8 minutes on an H100 with 16 CPUs. Each step goes on where one
# before it failed; the exit status is 1 if one did.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:?usage: scripts/gpu_check.sh FOLDER}"
out=$(cd "$1" && pwd)
cd "$root" || exit
python=${PYTHON:-python3}
export PYTHONPATH="$out/site" PYTHONUNBUFFERED=1
: >"$out/summary.txt"
failed=0

# step NAME SECONDS COMMAND...: its output goes to NAME.log, a line on it to summary.txt.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0
  shift 2
  printf '== %s\n' "$name"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  case $status in
    0) line="passed" ;;
    124) line="FAILED: not done after $limit s" ;;
    *) line="FAILED: exit status $status" ;;
  esac
  if ((status)); then failed=1; tail -n 25 "$out/$name.log"; fi
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$line" | tee -a "$out/summary.txt"
}

tests=(-m pytest -q -m cuda tests/test_cuda_gpu.py)
some="dropout_has or (steps_have and AdamW and plain and float32) or (storages and AdamW) or the_norm"

about='import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
step machine 60 sh -c 'nvidia-smi && nvcc --version && "$0" -c "$1"' "$python" "$about"
step build 240 "$python" -m pip install --no-build-isolation --no-deps --no-index --upgrade \
  --target "$out/site" -C build-dir="$out/build" -C cmake.define.FASTOPT_CUDA=ON \
  -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native "$root"
step tests 240 "$python" "${tests[@]}"
step verify 120 "$python" -m fastopt verify --quick --device cuda --json "$out/verify.json"
for tool in memcheck racecheck; do
  step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
    "$python" "${tests[@]}" -k "$some"
done
name=$(date +%F)-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
step bench 180 "$python" -m fastopt bench --device cuda \
  --json "$out/$name.json" --plot "$out/$name.png"
rm -rf "$out/build" "$out/site"
cat "$out/summary.txt"
exit $failed
