#!/usr/bin/env bash
# One command on a machine with a GPU: build, run the GPU tests, measure kernels, copies and serving, print a table.
# Needs torch, nvcc, cmake, ninja, pybind11, transformers and pytest; no network. Python 3.11 to 3.13.
set -u -o pipefail

# What tells most comes first: the total may end before the list does.
STAGES=(build tests kernels offload llama opt race sanitizer)
declare -A LIMIT_S=([build]=200 [tests]=150 [kernels]=100 [offload]=60 [llama]=100 [opt]=190 [race]=120 [sanitizer]=200)
TOTAL_S=${TOTAL_S:-570} # a stage gets what the ones before have left of it
LEAST_S=10
DEVICE=cuda
OUT=
CHOSEN=()
PYTHON=${PYTHON:-python3}

usage() {
  cat <<TEXT
usage: bench/gpu_check.sh [--stage NAME]... [--device cuda|cpu] [--out FOLDER]

stages: ${STAGES[*]} (default: all, within $TOTAL_S s on 16 cores; each has its own time limit;
  sanitizer needs compute-sanitizer and is left out without it)
--device cpu runs the same stages with tiny sizes, without the build: a test of this script, not a measurement.
Results in bench/results/<device>/ (or FOLDER), written anew after every stage: report.txt (the table, also printed at the end),
results.json (every item with its raw samples), log.txt (all output). Stages run later are added to them.
PYTHON names the interpreter, TOTAL_S another limit of the whole.
TEXT
}

while [ $# -gt 0 ]; do
  case $1 in
    --stage) CHOSEN+=("${2:?--stage needs a name}"); shift 2 ;;
    --device) DEVICE=${2:?--device needs cuda or cpu}; shift 2 ;;
    --out) OUT=${2:?--out needs a folder}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
case $DEVICE in cuda | cpu) ;; *) usage >&2; exit 2 ;; esac
if [ ${#CHOSEN[@]} -eq 0 ]; then CHOSEN=("${STAGES[@]}"); fi
for stage in "${CHOSEN[@]}"; do
  [ -n "${LIMIT_S[$stage]:-}" ] || { echo "unknown stage: $stage" >&2; usage >&2; exit 2; }
done

cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="python:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer
NAME=cpu
if [ "$DEVICE" = cuda ]; then
  NAME=$("$PYTHON" -c 'import re, torch; print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()))') \
    || { echo "torch finds no GPU; see docs/gpu.md" >&2; exit 1; }
fi
OUT=${OUT:-bench/results/$NAME}
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUT" || exit 1
LOG=$OUT/log.txt

describe_machine() {
  date -u
  git log -1 --oneline 2>/dev/null
  lscpu | grep -E '^(Model name|CPU\(s\))'
  [ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,pcie.link.gen.current,pcie.link.width.current --format=csv
  "$PYTHON" -c 'import sys, torch, pybind11; print(sys.version, "torch", torch.__version__, "pybind11", pybind11.__version__)'
  command -v nvcc >/dev/null && nvcc --version | tail -n 2
  c++ --version | head -n 1
}

# A start of an engine is no item, and may wait two minutes for a kernel that hangs in its check: --stall-s.
# The items of a stage are lines of a file; whatever ends the process of an item costs that item alone (bench/gpu/progress.py).
items() {
  "$PYTHON" -m bench.gpu.progress "$@"
}

# The command of each stage; for the CPU small enough to be a test.
stage_build() {
  [ "$DEVICE" = cpu ] && return 0
  # A warning of a compiler that nobody has tried shall not end it all, and one run shall show every error.
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DFASTSERVE_CUDA=ON -DFASTSERVE_INPLACE=ON \
    -DFASTSERVE_WERROR=OFF -DPython_EXECUTABLE="$(command -v "$PYTHON")" && cmake --build build/gpu -j "$(nproc)" -- -k 0 \
    && "$PYTHON" -c 'from fastserve import _C; assert _C.cuda_compiled(); print(_C.cuda_devices(), _C.cuda_problem())'
}

stage_tests() {
  if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -m bench.gpu.run_tests "$WORK/tests.jsonl"
  else
    "$PYTHON" -m bench.gpu.run_tests "$WORK/tests.jsonl" --select "not slow" --files tests/unit/ops/test_memory_roof.py
  fi
}

stage_kernels() {
  if [ "$DEVICE" = cuda ]; then
    items "$WORK/kernels.jsonl" "$PYTHON" -m bench.kernels --device cuda --rounds 20 --progress "$WORK/kernels.jsonl"
  else
    items "$WORK/kernels.jsonl" "$PYTHON" -m bench.kernels --quick --only norm --progress "$WORK/kernels.jsonl"
  fi
}

stage_offload() {
  local sizes=(--device cuda --block-kib 2048 64 13312 256 4 --arena-mib 1024 --rounds 9)
  [ "$DEVICE" = cuda ] || sizes=(--device cpu --link --block-kib 4 64 --arena-mib 1 --rounds 2)
  items "$WORK/offload.jsonl" "$PYTHON" -m bench.offload "${sizes[@]}" --progress "$WORK/offload.jsonl"
}

TINY="--shape tiny --device cpu --prompt 20 --output 10 --max-model-len 128 --host-kv-gib 0.01 --rate 100 --window 0.05"

stage_llama() {
  local sizes=(--shape llama-3-8b --batches 256 --policies learned --loads 0.8 --budget 60)
  [ "$DEVICE" = cuda ] || read -ra sizes <<<"$TINY --batches 8 --device-blocks 64 --loads 1"
  items --stall-s 150 "$WORK/llama.jsonl" "$PYTHON" -m bench.gpu.serving "${sizes[@]}" --progress "$WORK/llama.jsonl"
}

stage_opt() {
  # OPT-13B has 13 MiB of KV per block: at 256 slots KV is short, at 16 the slots are.
  local sizes=(--shape opt-13b --batches 16,256 --policies skip-join-mlfq,fcfs,learned --loads 0.9,1.2,0.7)
  sizes+=(--window 7 --host-kv-gib 16 --budget 120)
  [ "$DEVICE" = cuda ] || read -ra sizes <<<"$TINY --batches 4,8 --device-blocks 16 --loads 1,2 --policies skip-join-mlfq,fcfs"
  items --stall-s 150 "$WORK/opt.jsonl" "$PYTHON" -m bench.gpu.serving "${sizes[@]}" --progress "$WORK/opt.jsonl"
}

stage_race() {
  # 100 000 steps beside copies of random length.
  local tests=(--select "gpu and slow" --files tests/unit/offload/test_backends.py --stall-s 110)
  [ "$DEVICE" = cuda ] || tests=(--select "not gpu and not slow" --files tests/unit/offload/test_copy_fragments.py)
  "$PYTHON" -m bench.gpu.run_tests "$WORK/race.jsonl" "${tests[@]}"
}

stage_sanitizer() {
  # Every kernel on small shapes. Each tensor has an allocation of its own, so that an access behind its end is seen.
  local tool filter=()
  if [ "$DEVICE" = cpu ]; then
    "$PYTHON" -m bench.gpu.small_kernels --device cpu
    return
  fi
  compute-sanitizer --help | grep -q -- --kernel-name && filter=(--kernel-name kns=fastserve)
  for tool in memcheck racecheck; do
    echo "-- $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "${filter[@]}" \
      "$PYTHON" -m bench.gpu.small_kernels --device cuda || return
  done
}

has_sanitizer() {
  [ "$DEVICE" = cpu ] || command -v compute-sanitizer >/dev/null
}

# The report is made anew after every stage, so that a run that is cut off has lost the stage in progress alone.
record() {
  "$PYTHON" -m bench.gpu.report "$OUT" --stage "$1" "$2" "$3" "$WORK/$1.jsonl" || failed=1
}

for stage in "${STAGES[@]}"; do export -f "stage_$stage"; done
export -f items
export DEVICE OUT PYTHON WORK TINY

failed=0
SECONDS=0
describe_machine >>"$LOG" 2>&1
for stage in "${CHOSEN[@]}"; do
  limit=$((TOTAL_S - SECONDS < LIMIT_S[$stage] ? TOTAL_S - SECONDS : LIMIT_S[$stage]))
  if [ "$stage" = sanitizer ] && ! has_sanitizer; then
    record "$stage" "left out" 0
    continue
  fi
  if [ "$limit" -lt "$LEAST_S" ]; then
    record "$stage" "no time left" 0
    failed=1
    continue
  fi
  echo "== $stage (at most $limit s)" | tee -a "$LOG"
  begin=${EPOCHREALTIME/[.,]/}
  timeout -k 10 "$limit" bash -c "stage_$stage" 2>&1 | tee -a "$LOG" | tail -n 25
  code=${PIPESTATUS[0]}
  tenths=$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))
  case $code in 0) result=ok ;; 124 | 137) result="out of time" ;; *) result="failed ($code)" ;; esac
  [ "$code" -eq 0 ] || failed=1
  record "$stage" "$result" "$((tenths / 10)).$((tenths % 10))"
done

echo "== $OUT"
"$PYTHON" -m bench.gpu.report "$OUT" || failed=1
exit $failed
