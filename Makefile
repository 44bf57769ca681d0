# The two set-up commands are `make demo` and `make test`; both install what they need into .venv and may be run again.
VENV ?= .venv
PYTHON ?= python3
# Another build of PyTorch than the locked CPU build: make demo TORCH="torch==2.12.0"
TORCH ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
BUILD := build/$(patsubst .%,%,$(notdir $(VENV)))

export PATH := $(abspath $(BIN)):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
# Where nvcc is found, developers build the CUDA backend as well; a plain `pip install` does so only when asked.
export FASTSERVE_CUDA ?= AUTO

.PHONY: build test test-all test-python test-cpp test-gpu-sim test-newest lint tidy format lock demo stubs flag-table cuda-report wheel clean test-sanitizers

$(STAMP): pyproject.toml third_party/install_requirements.py $(wildcard third_party/lock/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python third_party/install_requirements.py $(if $(TORCH),--torch "$(TORCH)") $(if $(NEWEST),--newest)
	touch $@

# No build isolation: the build uses the locked packages.
build: $(STAMP)
	$(BIN)/pip install -q --no-build-isolation --no-deps -C build-dir=$(BUILD) -e .

# The Python tests, on all cores; the tests of one file share a process, so that what they share is made once.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

# What every change needs. The order is: what is cheap and tells most first.
test: build lint tidy test-cpp
	$(PYTEST) -m "not slow"

# Besides: the tests marked `slow`, the C++ tests under sanitizers and, where nvcc is, the compiled kernels without a GPU.
test-all: build lint tidy test-cpp test-sanitizers test-python
	if command -v nvcc >/dev/null; then $(MAKE) test-gpu-sim; fi

test-python: build
	$(PYTEST)

# What the newest release of everything breaks: prints the versions that differ from the lock, then the failing tests.
test-newest:
	$(MAKE) test-python VENV=.venv-newest NEWEST=1

# Write the lock files from the bounds of pyproject.toml; needs uv on PATH.
lock:
	$(PYTHON) third_party/lock.py

CPP_SOURCES := $(shell find csrc tests bench -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

lint: $(STAMP)
	$(BIN)/ruff check python tests bench third_party
	$(BIN)/ruff format --check python tests bench third_party
	$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES)
	$(BIN)/mypy

# Of C++, what .clang-tidy lists, over the commands of the package's build: a minute on two cores. Without the bindings and
# the files that are compiled once per instruction set (slow to parse), and what only a CUDA build compiles.
TIDY_SOURCES := $(shell find csrc -name '*.cc' ! -path 'csrc/bindings/*' ! -name '*_cpu.cc' ! -name '*_amx.cc' ! -name 'cuda_*.cc')

tidy: build
	printf '%s\n' $(TIDY_SOURCES) | xargs -P $(CMAKE_BUILD_PARALLEL_LEVEL) -n 4 $(BIN)/clang-tidy -p $(BUILD) --quiet --extra-arg=-Wno-deprecated-declarations

format: $(STAMP)
	$(BIN)/ruff format python tests bench third_party
	$(BIN)/clang-format -i $(CPP_SOURCES)

# The C++ tests, optimised: in the build folder of the package, so that nothing is compiled twice.
test-cpp: build
	third_party/require_gtest.sh
	cmake -B $(BUILD) -DFASTSERVE_TESTS=ON >/dev/null && cmake --build $(BUILD) --target cpp_tests && ctest --test-dir $(BUILD) --output-on-failure -j 2

# The C++ tests under AddressSanitizer + UndefinedBehaviorSanitizer, then ThreadSanitizer.
test-sanitizers: $(STAMP)
	third_party/require_gtest.sh
	for preset in asan tsan; do \
	  cmake --preset $$preset >/dev/null && cmake --build build/$$preset --target cpp_tests && ctest --test-dir build/$$preset --output-on-failure -j 2 || exit 1; \
	done

# The tests marked `gpu` without a GPU: the compiled PTX of every kernel, run by tests/gpu_simulator. Needs nvcc.
GPU_SIM := build/gpu-sim
GPU_SIM_TESTS := PYTHONPATH=python $(BIN)/python -m pytest -p tests.gpu_simulator.plugin -m "gpu and not slow"
ENGINE_ON_GPU := tests/integration/test_device_runner.py
test-gpu-sim: $(STAMP)
	third_party/require_gtest.sh
	cmake -S tests/gpu_simulator --preset gpu-sim -DPython_EXECUTABLE=$(abspath $(BIN))/python >/dev/null && cmake --build $(GPU_SIM)
	$(GPU_SIM)/test_gpu_simulator --gtest_brief=1
	GPU_SMOKE=$(GPU_SIM)/fastserve/bench/gpu_smoke/gpu_smoke $(BIN)/python -m pytest tests/unit/bench/test_gpu_smoke.py
	GPU_SIMULATOR_CAPABILITY=9.0 $(GPU_SIM_TESTS) tests/unit/ops tests/unit/offload tests/unit/layers tests/unit/worker $(ENGINE_ON_GPU)
	GPU_SIMULATOR_CAPABILITY=8.0 $(GPU_SIM_TESTS) tests/unit/ops/test_attention_check.py tests/unit/ops/test_sampling.py \
	  tests/unit/ops/test_sampling_devices.py tests/unit/offload/test_copy_fragments.py $(ENGINE_ON_GPU)

demo: build
	$(BIN)/python -m bench.demo

# The type stubs of the C++ core, after a change of its bindings.
stubs: build
	$(BIN)/python third_party/write_stubs.py build/stubs
	cp build/stubs/fastserve/_C/*.pyi python/fastserve/_C/

# The table of vLLM's flags in docs/from-vllm.md, after a change of python/fastserve/cli/vllm_flags.
flag-table: build
	$(BIN)/python -m fastserve.cli.vllm_flags.document docs/from-vllm.md

# Registers, spills and shared memory of every CUDA kernel; needs nvcc, no GPU. Fails when a kernel spills.
cuda-report: $(STAMP)
	cmake --preset dev -DPython_EXECUTABLE=$(abspath $(BIN))/python >/dev/null
	$(BIN)/python -m bench.cuda_report build/dev

wheel: $(STAMP)
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -C build-dir=build/wheel -w dist .

clean:
	rm -rf build dist $(VENV) .venv-newest python/fastserve/_C*.so
