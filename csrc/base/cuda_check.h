#pragma once

#include <cuda_runtime_api.h>

#include "base/error.h"

namespace fastserve::detail {

/// Throw DeviceError for a CUDA call that failed; also clears the error, so that the next call is not blamed for it.
[[noreturn]] inline void raise_cuda(cudaError_t status, const char* call, const char* file, int line) {
  (void)cudaGetLastError();
  raise<DeviceError>(file, ":", line, ": ", call, " failed: ", cudaGetErrorName(status), ", ",
                     cudaGetErrorString(status));
}

}  // namespace fastserve::detail

/// FS_CUDA(cudaStreamSynchronize(stream)): DeviceError with file, line, the call and CUDA's text unless it succeeds.
/// After a launch: FS_CUDA(cudaGetLastError()). Only for files that are compiled with CUDA.
#define FS_CUDA(call)                                                             \
  do {                                                                            \
    const cudaError_t fs_cuda_status = (call);                                    \
    if (fs_cuda_status != cudaSuccess) [[unlikely]]                               \
      ::fastserve::detail::raise_cuda(fs_cuda_status, #call, __FILE__, __LINE__); \
  } while (false)
