// Capture of a stream, for programs that do it themselves; tests of Python go by control.cc. One capture at a time.

#include <cuda_runtime_api.h>

#include <memory>

#include "cudart/kernels.h"
#include "cudart/runtime.h"

using cudart::captured_graph;
using cudart::status_of;

namespace {

cudart::Graph* graph_of(void* handle) { return static_cast<cudart::Graph*>(handle); }

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (captured_graph() != nullptr) return cudaErrorIllegalState;
  captured_graph() = new cudart::Graph;
  return status_of("cudaStreamBeginCapture");
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(captured_graph());
  captured_graph() = nullptr;
  return *graph == nullptr ? cudaErrorIllegalState : status_of("cudaStreamEndCapture");
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new cudart::Graph(*graph_of(graph)));
  return status_of("cudaGraphInstantiate");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const cudaError_t status = status_of("cudaGraphLaunch"); status != cudaSuccess) return status;
  for (const cudart::Launch& launch : *graph_of(executable)) {
    cudart::launch(stream, [launch] { (void)launch.run(); });
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete graph_of(executable);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph_of(graph);
  return cudaSuccess;
}

}  // extern "C"
