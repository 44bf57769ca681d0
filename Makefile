# The two set-up commands are `make demo` and `make test`; both install what they need into .venv and may be run again.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
STAMP := $(VENV)/.stamp

export PATH := $(abspath $(BIN)):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

.PHONY: build test test-cpp test-ptx test-sanitizers lint demo stubs cuda-report wheel clean

# torch first and alone, so that nothing else pulls another build of it; no build isolation, for the same reason.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q "$(TORCH)"
	$(BIN)/python third_party/install_requirements.py
	touch $@

build: $(STAMP)
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .

# The order is: what is cheap and tells most first.
test: build lint test-cpp
	$(BIN)/python -m pytest
	if command -v nvcc >/dev/null; then $(MAKE) test-ptx; fi

lint: $(STAMP)
	$(BIN)/ruff check python tests bench
	$(BIN)/ruff format --check python tests bench

test-cpp: $(STAMP) test-sanitizers

# The C++ tests under AddressSanitizer + UndefinedBehaviorSanitizer, then ThreadSanitizer.
test-sanitizers: $(STAMP)
	third_party/require_gtest.sh
	for preset in asan tsan; do \
	  cmake --preset $$preset >/dev/null && cmake --build build/$$preset && ctest --test-dir build/$$preset --output-on-failure -j 2 || exit 1; \
	done

# The tests marked `gpu` without a GPU: the compiled PTX of every kernel, run by tests/cpp/ptx_machine. Needs nvcc.
PTX_TESTS := PYTHONPATH=python $(BIN)/python -m pytest -p tests.ptx_device -m "gpu and not slow"
ENGINE_ON_GPU := tests/integration/test_device_runner.py
test-ptx: $(STAMP)
	third_party/require_gtest.sh
	cmake --preset ptx -DPython_EXECUTABLE=$(abspath $(BIN))/python >/dev/null && cmake --build build/ptx
	build/ptx/tests/cpp/test_ptx_machine --gtest_brief=1
	FASTSERVE_PRETENDED_GPU=9.0 $(PTX_TESTS) tests/unit/ops tests/unit/offload tests/unit/layers tests/unit/worker $(ENGINE_ON_GPU)
	FASTSERVE_PRETENDED_GPU=8.0 $(PTX_TESTS) tests/unit/ops/test_attention_check.py tests/unit/ops/test_sampling.py \
	  tests/unit/ops/test_sampling_devices.py tests/unit/offload/test_copy_fragments.py $(ENGINE_ON_GPU)

demo: build
	$(BIN)/python -m bench.demo

# The type stubs of the C++ core, after a change of its bindings.
stubs: build
	$(BIN)/python -m pybind11_stubgen fastserve._C --output-dir build/stubs --exit-code
	cp build/stubs/fastserve/_C/*.pyi python/fastserve/_C/

# Registers, spills and shared memory of every CUDA kernel; needs nvcc, no GPU. Fails when a kernel spills.
cuda-report: $(STAMP)
	cmake --preset dev -DPython_EXECUTABLE=$(abspath $(BIN))/python >/dev/null
	$(BIN)/python -m bench.cuda_report build/dev

wheel: $(STAMP)
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .

clean:
	rm -rf build dist $(VENV) python/fastserve/_C*.so
