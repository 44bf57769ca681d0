#!/usr/bin/env bash
# Build beforehand what bench/gpu_check.sh takes along to a machine with a GPU: build/gpu-carry with gpu_smoke, which needs no
# Python, and fastserve._C with tests.core_internals for the Python there. Needs nvcc, cmake, ninja, pybind11; no GPU.
#
# PYTHON: the interpreter to build for, of the version of that machine (default python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
# pybind11 is headers alone: those of another Python will do.
pybind11=$("$PYTHON" -m pybind11 --cmakedir 2>/dev/null || python3 -m pybind11 --cmakedir)

cmake --preset gpu-carry -DPython_EXECUTABLE="$(command -v "$PYTHON")" -Dpybind11_DIR="$pybind11" >/dev/null
cmake --build build/gpu-carry-objects --target gpu_smoke _C core_internals

objects=build/gpu-carry-objects folder=build/gpu-carry
rm -rf "$folder"
mkdir -p "$folder"
cp "$objects/bench/gpu_smoke/gpu_smoke" "$objects"/csrc/_C.*.so tests/core_internals.*.so "$folder"
strip "$folder"/*
bench/gpu_sources.sh >"$folder/sources"
du -h "$folder"/*
