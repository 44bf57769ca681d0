// What the test suite does with the pretended GPU that a program would not, for tests/ptx_device.py.

#include "fake_cuda/fake_cuda.h"
#include "fake_cuda/kernels.h"

#define FAKE_CUDA_EXPORTED __attribute__((visibility("default")))

extern "C" {

/// A device as new: not lost, no faults, the first seed.
FAKE_CUDA_EXPORTED void fake_cuda_reset() {
  fake_cuda::captured_graph() = nullptr;
  fake_cuda::reset();
  fake_cuda::reset_machine();
}

/// Capture launches into a new graph until fake_cuda_end_capture().
FAKE_CUDA_EXPORTED fake_cuda::Graph* fake_cuda_capture() {
  return fake_cuda::captured_graph() = new fake_cuda::Graph;
}
FAKE_CUDA_EXPORTED void fake_cuda_end_capture() { fake_cuda::captured_graph() = nullptr; }
/// Run it now; returns a cudaError_t.
FAKE_CUDA_EXPORTED int fake_cuda_replay(const fake_cuda::Graph* graph) {
  for (const fake_cuda::Launch& launch : *graph) {
    if (const cudaError_t status = launch.run(); status != cudaSuccess) return static_cast<int>(status);
  }
  return 0;
}
FAKE_CUDA_EXPORTED void fake_cuda_forget(fake_cuda::Graph* graph) { delete graph; }
FAKE_CUDA_EXPORTED const char* fake_cuda_error_text(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

}  // extern "C"
