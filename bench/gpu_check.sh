#!/usr/bin/env bash
# The GPU check, in two calls that each stand alone: does it run, is it right, how fast is it; then the rest, or what is wrong.
# docs/gpu.md says how to run it and how to read what it gives.
set -u -o pipefail

# What tells most comes first: the total may end before the list does.
CALL1=(smoke build attention tests batches ncu offload)
CALL2_GREEN=(build kernels opt race variants sanitizer)
CALL2_RED=(smoke build narrowing sanitizer again kernels)
declare -A LIMIT_S=(
  [smoke]=140 [build]=140 [attention]=50 [tests]=80 [batches]=100 [ncu]=45 [offload]=45
  [kernels]=60 [opt]=140 [race]=70 [variants]=70 [narrowing]=90 [sanitizer]=90 [again]=60
)
TOTAL_S=${TOTAL_S:-320} # a stage gets what the ones before have left of it
LEAST_S=5
SMOKE_S=60 # of gpu_smoke itself; its items have limits of their own
DEVICE=cuda
OUT=${OUT:-}
CALL=
AFTER=
CHOSEN=()
PYTHON=${PYTHON:-python3}
CARRY=build/gpu-carry

usage() {
  cat <<TEXT
usage: bench/gpu_check.sh call1 [--out FOLDER] [--device cuda|cpu]
       bench/gpu_check.sh call2 --after RESULTS [--out FOLDER] [--device cuda|cpu]
       bench/gpu_check.sh --stage NAME... [--out FOLDER] [--device cuda|cpu]

call1: ${CALL1[*]}
call2: RESULTS is the results.json of call1. Nothing of it failed: ${CALL2_GREEN[*]}
  otherwise: ${CALL2_RED[*]}
Each call ends within $TOTAL_S s (TOTAL_S), and every stage has its own limit. bench/gpu_carry.sh builds beforehand what saves most of the time.
--device cpu runs the same stages with tiny sizes: a test of this script, not a measurement.
FOLDER (default: the variable OUT, else bench/results/<device>) gets report.txt (the table), results.json (every item), log.txt, ncu.txt,
and the items of the stage in progress in <stage>.jsonl, at once. Stages run later are added to them. PYTHON names the interpreter.
TEXT
}

fail() {
  echo "$1" >&2
  usage >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    call1 | call2) CALL=$1; shift ;;
    --after) AFTER=${2:?--after needs a file}; shift 2 ;;
    --stage) CHOSEN+=("${2:?--stage needs a name}"); shift 2 ;;
    --device) DEVICE=${2:?--device needs cuda or cpu}; shift 2 ;;
    --out) OUT=${2:?--out needs a folder}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown word: $1" ;;
  esac
done
case $DEVICE in cuda | cpu) ;; *) fail "the device must be cuda or cpu, got $DEVICE" ;; esac
[ -n "$CALL" ] || [ ${#CHOSEN[@]} -gt 0 ] || fail "name a call or a stage"
[ "$CALL" != call2 ] || [ -n "$AFTER" ] || fail "call2 needs --after with the results.json of call1"
for stage in "${CHOSEN[@]}"; do
  [ -n "${LIMIT_S[$stage]:-}" ] || fail "unknown stage: $stage"
done
[ -z "$OUT" ] || OUT=$(realpath -m "$OUT")
[ -z "$AFTER" ] || AFTER=$(realpath -m "$AFTER")

cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="python:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer

gpu_facts() {
  nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1
}

if [ -z "$OUT" ]; then
  OUT=bench/results/$DEVICE
  [ "$DEVICE" = cpu ] || OUT=bench/results/$(gpu_facts name | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9\n' -)
  OUT=$(realpath -m "${OUT%/}")
fi
mkdir -p "$OUT" || exit 1
LOG=$OUT/log.txt

if [ ${#CHOSEN[@]} -eq 0 ]; then
  CHOSEN=("${CALL1[@]}")
  if [ "$CALL" = call2 ]; then
    verdict=$("$PYTHON" -m bench.gpu.verdict "$AFTER") || exit 2
    echo "$AFTER: $verdict" | tee -a "$LOG"
    CHOSEN=("${CALL2_GREEN[@]}")
    [[ $verdict = green* ]] || CHOSEN=("${CALL2_RED[@]}")
  fi
fi

describe_machine() {
  date -u
  git log -1 --oneline 2>/dev/null
  lscpu | grep -E '^(Model name|CPU\(s\))'
  [ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,pcie.link.gen.current,pcie.link.width.current --format=csv
  command -v "$PYTHON" nvcc cmake ninja ncu compute-sanitizer
  command -v nvcc >/dev/null && nvcc --version | tail -n 2
  c++ --version | head -n 1
}

# Whether what was built beforehand is of these sources.
carried() {
  [ -e "$CARRY/$1" ] && [ "$(cat "$CARRY/sources")" = "$(bash bench/gpu_sources.sh)" ]
}

# Configure and build targets in place, for this GPU alone. One run shall show every error.
build() {
  local capability cuda=(-DFASTSERVE_CUDA=OFF)
  if [ "$DEVICE" = cuda ]; then
    capability=$(gpu_facts compute_cap)
    case $capability in 9.0 | "") capability=90a ;; *) capability=${capability/./} ;; esac
    cuda=(-DFASTSERVE_CUDA=ON -DFASTSERVE_GPU_SMOKE=ON -DCMAKE_CUDA_ARCHITECTURES="$capability-real")
  fi
  cmake -S . -B "build/$DEVICE-check" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFASTSERVE_INPLACE=ON "${cuda[@]}" \
    -DPython_EXECUTABLE="$(command -v "$PYTHON")" \
    && cmake --build "build/$DEVICE-check" --target "$@" -j "$(nproc)" -- -k 0
}

# The program of the smoke test, into SMOKE: the carried one, else one that is built; for the CPU that of the GPU simulator.
find_smoke() {
  if [ "$DEVICE" = cpu ]; then
    SMOKE=${GPU_SMOKE:-build/gpu-sim/fastserve/bench/gpu_smoke/gpu_smoke}
    return
  fi
  SMOKE=build/cuda-check/bench/gpu_smoke/gpu_smoke
  [ -x "$SMOKE" ] && return
  if carried gpu_smoke && chmod +x "$CARRY/gpu_smoke" && "$CARRY/gpu_smoke" --list >/dev/null; then
    SMOKE=$CARRY/gpu_smoke
  else
    echo "no carried gpu_smoke of these sources runs here: building one"
    build gpu_smoke
  fi
}

# A start of an engine is no item, and may wait two minutes for a kernel that hangs in its check: --stall-s.
# The items of a stage are lines of a file; whatever ends the process of an item costs that item alone (bench/gpu/progress.py).
items() {
  "$PYTHON" -m bench.gpu.progress "$@"
}

# The command of each stage; for the CPU small enough to be a test. LEFT_OUT is the exit status of what cannot run here.
LEFT_OUT=77

stage_smoke() {
  local chosen=()
  find_smoke || return
  [ -x "$SMOKE" ] || { echo "$SMOKE is not built"; return $LEFT_OUT; }
  [ "$DEVICE" = cuda ] || chosen=(device "tensor maps" "mapped write" "batched copy" "decode bf16 2/2 d64 p16 17:1,1:1")
  timeout -k 5 $SMOKE_S "$SMOKE" --out "$OUT/smoke.jsonl" "${chosen[@]}"
}

stage_build() {
  local check='from fastserve import _C; from tests import core_internals; print(_C.__file__, _C.cuda_devices(), _C.cuda_problem())'
  if [ "$DEVICE" = cpu ]; then
    "$PYTHON" -c "$check" || { build _C core_internals && "$PYTHON" -c "$check"; }
    return
  fi
  check+='; assert _C.cuda_compiled()'
  if carried sources && cp "$CARRY"/_C.*.so python/fastserve/ && cp "$CARRY"/core_internals.*.so tests/ && "$PYTHON" -c "$check"; then
    echo "carried, not built"
  else
    rm -f python/fastserve/_C.*.so tests/core_internals.*.so
    build _C core_internals gpu_smoke && "$PYTHON" -c "$check"
  fi
}

kernels() {
  local stage=$1
  shift
  if [ "$DEVICE" = cuda ]; then
    items --stall-s 30 "$OUT/$stage.jsonl" "$PYTHON" -m bench.kernels --device cuda --rounds 20 --progress "$OUT/$stage.jsonl" "$@"
  else
    items "$OUT/$stage.jsonl" "$PYTHON" -m bench.kernels --quick --only norm --progress "$OUT/$stage.jsonl"
  fi
}

stage_attention() { kernels attention --only attention --quick; }
stage_variants() { kernels variants --only attention; }
stage_kernels() { kernels kernels --skip attention; }

run_tests() {
  "$PYTHON" -m bench.gpu.run_tests "$@"
}

stage_tests() {
  local tests=()
  [ "$DEVICE" = cuda ] || tests=(--select "not slow" --files tests/unit/ops/test_read_bandwidth.py)
  run_tests "$OUT/tests.jsonl" "${tests[@]}"
}

stage_again() {
  local failed
  mapfile -t failed < <("$PYTHON" -c 'import json, sys; from bench.gpu.verdict import failed_tests; print(*failed_tests(json.load(open(sys.argv[1]))), sep="\n")' "$AFTER")
  [ -n "${failed[0]:-}" ] || { echo "no test had failed"; return $LEFT_OUT; }
  local select="gpu and not slow"
  [ "$DEVICE" = cuda ] || select="not slow"
  CUDA_LAUNCH_BLOCKING=1 run_tests "$OUT/again.jsonl" --select "$select" --files "${failed[@]:0:12}"
}

stage_race() {
  # 100 000 steps beside copies of random length.
  local tests=(--select "gpu and slow" --files tests/unit/offload/test_backends.py --stall-s 65)
  [ "$DEVICE" = cuda ] || tests=(--select "not gpu and not slow" --files tests/unit/offload/test_copy_fragments.py)
  run_tests "$OUT/race.jsonl" "${tests[@]}"
}

stage_offload() {
  local sizes=(--device cuda --block-kib 2048 64 13312 256 4 --arena-mib 1024 --rounds 7)
  [ "$DEVICE" = cuda ] || sizes=(--device cpu --link --block-kib 4 64 --arena-mib 1 --rounds 2)
  items "$OUT/offload.jsonl" "$PYTHON" -m bench.offload "${sizes[@]}" --progress "$OUT/offload.jsonl"
}

serve() {
  local stage=$1
  shift
  items --stall-s 130 "$OUT/$stage.jsonl" "$PYTHON" -m bench.gpu.serving "$@" --progress "$OUT/$stage.jsonl"
}

TINY="--shape tiny --device cpu --prompt 20 --output 10 --max-model-len 128 --host-kv-gib 0.01 --rate 100 --window 0.05"

stage_batches() {
  local sizes=(--shape llama-3-8b --batches 64,256,1 --loads "")
  [ "$DEVICE" = cuda ] || { read -ra sizes <<<"$TINY --batches 4,8 --device-blocks 64" && sizes+=(--loads ""); }
  serve batches "${sizes[@]}"
}

stage_opt() {
  # OPT-13B has 13 MiB of KV per block: at 256 slots KV is short.
  local sizes=(--shape opt-13b --batches 256 --policies skip-join-mlfq,fcfs,learned --loads 1.2,0.9)
  sizes+=(--window 5 --host-kv-gib 16 --budget 80)
  [ "$DEVICE" = cuda ] || read -ra sizes <<<"$TINY --batches 8 --device-blocks 16 --loads 1,2 --policies skip-join-mlfq,fcfs"
  serve opt "${sizes[@]}"
}

stage_ncu() {
  find_smoke || return
  { command -v ncu >/dev/null && [ -x "$SMOKE" ]; } || { echo "there is no ncu or no gpu_smoke"; return $LEFT_OUT; }
  "$PYTHON" -m bench.gpu.profile "$OUT/ncu.jsonl" "$SMOKE" --text "$OUT/ncu.txt"
}

stage_narrowing() {
  find_smoke || return
  [ -x "$SMOKE" ] || { echo "$SMOKE is not built"; return $LEFT_OUT; }
  "$PYTHON" -m bench.gpu.narrowing "$OUT/narrowing.jsonl" "$SMOKE" "$AFTER" "$OUT/results.json" --budget 40
}

stage_sanitizer() {
  # What narrowing has left; else every kernel on small shapes. Each tensor has an allocation of its own there, so that an access
  # behind its end is seen.
  local tool filter=()
  if [ "$DEVICE" = cpu ]; then
    "$PYTHON" -m bench.gpu.small_kernels --device cpu
    return
  fi
  command -v compute-sanitizer >/dev/null || { echo "there is no compute-sanitizer"; return $LEFT_OUT; }
  find_smoke || return
  "$PYTHON" -m bench.gpu.sanitize "$OUT/sanitizer.jsonl" "$SMOKE" "$OUT/results.json"
  grep -q '"end"' "$OUT/sanitizer.jsonl" && return
  compute-sanitizer --help | grep -q -- --kernel-name && filter=(--kernel-name kns=fastserve)
  for tool in memcheck racecheck; do
    echo "-- $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "${filter[@]}" \
      "$PYTHON" -m bench.gpu.small_kernels --device cuda || return
  done
}

# The report is written again after every stage, and items are on disk before: a run that is cut off has lost the item in progress.
record() {
  "$PYTHON" -m bench.gpu.report "$OUT" --stage "$1" "$2" "$3" || failed=1
}

for stage in "${!LIMIT_S[@]}"; do export -f "stage_$stage"; done
export -f items kernels run_tests serve find_smoke carried build gpu_facts
export DEVICE OUT PYTHON TINY AFTER CARRY SMOKE_S LEFT_OUT

failed=0
SECONDS=0
describe_machine >>"$LOG" 2>&1
for stage in "${CHOSEN[@]}"; do
  limit=$((TOTAL_S - SECONDS < LIMIT_S[$stage] ? TOTAL_S - SECONDS : LIMIT_S[$stage]))
  if [ "$limit" -lt "$LEAST_S" ]; then
    record "$stage" "no time left" 0
    failed=1
    continue
  fi
  echo "== $stage (at most $limit s)" | tee -a "$LOG"
  begin=${EPOCHREALTIME/[.,]/}
  logged=$(stat -c %s "$LOG")
  # Straight into the file: a process that cannot be ended would keep a pipe open.
  timeout -k 5 "$limit" bash -c "stage_$stage" >>"$LOG" 2>&1
  code=$?
  tail -c "+$((logged + 1))" "$LOG" | tail -n 15 | cut -c 1-400
  tenths=$(((${EPOCHREALTIME/[.,]/} - begin) / 100000))
  case $code in 0) result=ok ;; "$LEFT_OUT") result="left out" ;; 124 | 137) result="out of time" ;; *) result="failed ($code)" ;; esac
  [ "$code" -eq 0 ] || [ "$code" -eq "$LEFT_OUT" ] || failed=1
  record "$stage" "$result" "$((tenths / 10)).$((tenths % 10))"
done

echo "== $OUT"
"$PYTHON" -m bench.gpu.report "$OUT" || failed=1
exit $failed
