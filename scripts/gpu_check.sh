#!/usr/bin/env bash
# All that only a GPU can show: first whether it is right, then how fast.
#
#     scripts/gpu_check.sh FOLDER [STEP...]     a log for each step, summary.txt, JSON and plot go to FOLDER
#
# STEPs, all of them if none is named:
#
#     families   one launch of each family of kernels beside the CPU's bits, under memcheck
#     racecheck  shared memory, on what families launches
#     tests      the tests marked cuda
#     verify     python -m fastopt verify --device cuda
#     numbers    the bench's cases that say most, each written to FOLDER when it is measured
#     counters   Nsight Compute's counters of eight kernels on large arrays (may need permission)
#     bench      the whole bench, in what time is left
#
# fastopt is built first, each time, unless FASTOPT_GPU_SITE names a folder that has it (built where
# there is no GPU, for the same Python). The four steps that time nothing run beside one another. A
# step that has no time left is cut, and all end within FASTOPT_GPU_SECONDS (570); its log has what it
# printed by then, line by line. Each step goes on where another failed; the exit status is 1 if one
# did.
#
# Needs CUDA's nvcc, a C++ compiler, and a Python with its headers, torch (of CUDA), CMake, ninja,
# pybind11, scikit-build-core, pytest, hypothesis, ml_dtypes, rich and matplotlib; no network: dlpack.h is
# torch's own. FASTOPT_GPU_ARCHITECTURES (native) are what is built for.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:?usage: scripts/gpu_check.sh FOLDER [STEP...]}"
out=$(cd "$1" && pwd)
shift
wanted=" machine build ${*:-families numbers counters tests verify racecheck bench} "
cd "$root" || exit
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python3}
export PYTHONPATH="${FASTOPT_GPU_SITE:-$scratch/site}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
: >"$out/summary.txt"
seconds=${FASTOPT_GPU_SECONDS:-570}

# step NAME SECONDS COMMAND...: its output goes to NAME.log, a line on it to summary.txt.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0 line
  shift 2
  [[ $wanted == *" $name "* ]] || return 0
  ((limit > seconds - begin)) && limit=$((seconds - begin))
  if ((limit < 1)); then
    status=124 limit=0
  else
    timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  fi
  case $status in
    0) line="passed" ;;
    124 | 137) line="FAILED: not done after $limit s" ;;
    *) line="FAILED: exit status $status" ;;
  esac
  if ((status)); then tail -n 25 "$out/$name.log"; fi
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$line" | tee -a "$out/summary.txt"
}

sanitizer() {
  echo compute-sanitizer --tool "$1" --kernel-name kernel_substring=fastopt --error-exitcode 9
}

[[ -z ${FASTOPT_GPU_SITE:-} ]] || wanted=${wanted/ build/}
cuda_tests=(-m pytest -v -p no:cacheprovider -m cuda tests/cuda/test_cuda_gpu.py)
families=("${cuda_tests[@]}" -k first_launches)

about='import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
step machine 30 sh -c 'nvidia-smi && nvcc --version && "$0" -c "$1"' "$python" "$about"
step build 200 "$python" -m pip install --no-build-isolation --no-deps --no-index --upgrade \
  --target "$scratch/site" -C build-dir="$scratch/build" -C cmake.define.FASTOPT_CUDA=ON \
  -C cmake.define.CMAKE_CUDA_ARCHITECTURES="${FASTOPT_GPU_ARCHITECTURES:-native}" "$root"
# Without torch's cache of memory each tensor is an allocation, whose ends memcheck knows.
# shellcheck disable=SC2046  # the words of a command
step families 150 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(sanitizer memcheck) "$python" "${families[@]}" &
# shellcheck disable=SC2046
step racecheck 150 $(sanitizer racecheck) "$python" "${families[@]}" &
step tests 200 "$python" "${cuda_tests[@]}" &
step verify 200 "$python" -m fastopt verify --quick --device cuda --json "$out/verify.json" &
wait
name=$(date +%F)-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
step numbers 110 "$python" -m fastopt bench large lowbit dropout tail small --device cuda \
  --optimizers AdamW SGD "clip + AdamW" --rounds 5 --json "$out/numbers.json"
step counters 60 ncu --clock-control none --csv --profile-from-start off \
  --kernel-name-base mangled --kernel-name regex:fastopt "$python" scripts/gpu_kernels.py
step bench "$seconds" "$python" -m fastopt bench --device cuda \
  --json "$out/$name.json" --plot "$out/$name.png"
cat "$out/summary.txt"
! grep -q FAILED "$out/summary.txt"
