// What the test suite does with the simulated GPU that a program would not, for tests/gpu_simulator/plugin.py.

#include "cudart/kernels.h"
#include "cudart/runtime.h"

#define FAKE_CUDA_EXPORTED __attribute__((visibility("default")))

extern "C" {

/// A device as new: not lost, no faults, the first seed.
FAKE_CUDA_EXPORTED void gpu_simulator_reset() {
  cudart::captured_graph() = nullptr;
  cudart::reset();
  cudart::reset_machine();
}

/// Capture launches into a new graph until gpu_simulator_end_capture().
FAKE_CUDA_EXPORTED cudart::Graph* gpu_simulator_capture() { return cudart::captured_graph() = new cudart::Graph; }
FAKE_CUDA_EXPORTED void gpu_simulator_end_capture() { cudart::captured_graph() = nullptr; }
/// Run it now; returns a cudaError_t.
FAKE_CUDA_EXPORTED int gpu_simulator_replay(const cudart::Graph* graph) {
  for (const cudart::Launch& launch : *graph) {
    if (const cudaError_t status = launch.run(); status != cudaSuccess) return static_cast<int>(status);
  }
  return 0;
}
FAKE_CUDA_EXPORTED void gpu_simulator_forget(cudart::Graph* graph) { delete graph; }
FAKE_CUDA_EXPORTED const char* gpu_simulator_error_text(int status) {
  return cudaGetErrorString(static_cast<cudaError_t>(status));
}

}  // extern "C"
