#!/usr/bin/env bash
# One command on a machine with a GPU: build, run the GPU tests, measure kernels, copies and serving, print a table.
# Needs torch, nvcc, cmake, ninja, pybind11, transformers and pytest; no network. Python 3.11 to 3.13.
set -u -o pipefail

STAGES=(build tests kernels offload llama opt sanitizer)
declare -A LIMIT_S=([build]=200 [tests]=170 [kernels]=90 [offload]=60 [llama]=70 [opt]=120 [sanitizer]=100)
TOTAL_S=${TOTAL_S:-590} # a stage gets what the ones before have left of it
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
Results: a table here, JSON with raw samples in bench/results/<device>/ (or FOLDER). PYTHON names the interpreter,
TOTAL_S another limit of the whole.
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
export PYTHONPATH="python:.${PYTHONPATH:+:$PYTHONPATH}"
NAME=cpu
if [ "$DEVICE" = cuda ]; then
  NAME=$("$PYTHON" -c 'import re, torch; print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()))') \
    || { echo "torch finds no GPU; see docs/gpu.md" >&2; exit 1; }
fi
OUT=${OUT:-bench/results/$NAME}
mkdir -p "$OUT/logs"
STATUS="$OUT/stages.tsv"
: >"$STATUS"

# The command of each stage; for the CPU small enough to be a test.
stage_build() {
  [ "$DEVICE" = cpu ] && return 0
  # A warning of a compiler that nobody has tried shall not end it all, and one run shall show every error.
  PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
  cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DFASTSERVE_CUDA=ON -DFASTSERVE_INPLACE=ON \
    -DFASTSERVE_WERROR=OFF -DPython_EXECUTABLE="$(command -v "$PYTHON")" && cmake --build build/gpu -j "$(nproc)" -- -k 0
}

stage_tests() {
  # Only files with GPU tests are collected: others import packages that a GPU image may lack. No configuration file, as
  # its plugins may be missing too. The tests of the operators get their device from a fixture of that name.
  local files
  mapfile -t files < <(
    grep -rlE 'mark\.gpu' tests --include='test_*.py'
    grep -lwE 'device' tests/unit/ops/test_*.py
  )
  mapfile -t files < <(printf '%s\n' "${files[@]}" | sort -u)
  # The best attention kernels in a process of their own: one that faults takes all later tests with it.
  local part code worst=0
  for part in "not native" native; do
    "$PYTHON" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider -q -W ignore -rfE -k "$part" \
      -m "$([ "$DEVICE" = cuda ] && echo 'gpu and not slow' || echo 'gpu and slow')" "${files[@]}"
    code=$?
    [ $code -eq 5 ] && [ "$DEVICE" = cpu ] && code=0 # all were left out
    [ $code -eq 0 ] || worst=$code
  done
  return $worst
}

stage_kernels() {
  if "$PYTHON" -m bench.kernels --help | grep -q -- --device; then
    "$PYTHON" -m bench.kernels --quick --device "$DEVICE" --json "$OUT/kernels.json" \
      $([ "$DEVICE" = cpu ] && echo --only norm)
  else
    echo "bench.kernels has no --device"
  fi
}

stage_offload() {
  if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -m bench.offload --device cuda --block-kib 4 64 256 2048 13312 --arena-mib 1024 --rounds 9 \
      --output "$OUT/offload.json"
  else
    "$PYTHON" -m bench.offload --device cpu --link --block-kib 4 64 --arena-mib 1 --rounds 2 --output "$OUT/offload.json"
  fi
}

stage_llama() {
  if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -m bench.gpu.serving --shape llama-3-8b --requests 256 --rate 32 --json "$OUT/llama.json"
  else
    "$PYTHON" -m bench.gpu.serving --shape tiny --device cpu --requests 6 --rate 100 --prompt 20 --output 10 \
      --max-model-len 256 --max-num-seqs 8 --device-blocks 64 --host-kv-gib 0.01 --json "$OUT/llama.json"
  fi
}

stage_opt() {
  # OPT-13B: 13 MiB of KV per block; 800 blocks hold some 30 requests, so that preemption decides the latencies.
  if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -m bench.gpu.serving --shape opt-13b --policies skip-join-mlfq,fcfs --requests 192 --rate 12 \
      --device-blocks 800 --max-num-seqs 64 --host-kv-gib 24 --json "$OUT/opt.json"
  else
    "$PYTHON" -m bench.gpu.serving --shape tiny --device cpu --policies skip-join-mlfq,fcfs --requests 6 --rate 100 \
      --prompt 20 --output 10 --max-model-len 128 --max-num-seqs 8 --device-blocks 16 --host-kv-gib 0.01 \
      --json "$OUT/opt.json"
  fi
}

stage_sanitizer() {
  # Every kernel on small shapes. Each tensor has an allocation of its own, so that an access behind its end is seen.
  local tool filter=()
  if [ "$DEVICE" = cpu ]; then
    "$PYTHON" -m bench.gpu.small_kernels --device cpu
    return
  fi
  PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer
  compute-sanitizer --help | grep -q -- --kernel-name && filter=(--kernel-name kns=fastserve)
  for tool in memcheck racecheck; do
    echo "-- $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "${filter[@]}" \
      "$PYTHON" -m bench.gpu.small_kernels --device cuda || return
  done
}

has_sanitizer() {
  [ "$DEVICE" = cpu ] || command -v compute-sanitizer >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" ]
}

export -f stage_build stage_tests stage_kernels stage_offload stage_llama stage_opt stage_sanitizer
export DEVICE OUT PYTHON

failed=0
SECONDS=0
for stage in "${CHOSEN[@]}"; do
  limit=$((TOTAL_S - SECONDS < LIMIT_S[$stage] ? TOTAL_S - SECONDS : LIMIT_S[$stage]))
  if [ "$stage" = sanitizer ] && ! has_sanitizer; then
    printf '%s\t%s\t%s\n' "$stage" "left out" 0 >>"$STATUS"
    continue
  fi
  if [ "$limit" -lt "$LEAST_S" ]; then
    printf '%s\t%s\t%s\n' "$stage" "no time left" 0 >>"$STATUS"
    failed=1
    continue
  fi
  echo "== $stage (at most $limit s)"
  begin=$(date +%s.%N)
  timeout -k 10 "$limit" bash -c "stage_$stage" 2>&1 | tee "$OUT/logs/$stage.log" | tail -n 25
  code=${PIPESTATUS[0]}
  seconds=$(echo "$(date +%s.%N) $begin" | awk '{printf "%.1f", $1 - $2}')
  case $code in 0) result=ok ;; 124 | 137) result="out of time" ;; *) result="failed ($code)" ;; esac
  [ "$code" -eq 0 ] || failed=1
  printf '%s\t%s\t%s\n' "$stage" "$result" "$seconds" >>"$STATUS"
done

"$PYTHON" -m bench.gpu.report "$OUT" || failed=1
exit $failed
