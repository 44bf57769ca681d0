#pragma once

// The host side that the CUDA kernels share: checked launches, choice of element type, what vectors of 16 bytes need.
// A launch neither allocates nor waits nor changes an attribute, so every kernel may be captured into a CUDA graph.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"

namespace fastserve::kernels::cuda {

/// What is launched and where, for error messages: FS_SITE("rms_norm").
struct Site {
  const char* kernel;
  const char* file;
  int line;
};
#define FS_SITE(kernel) (::fastserve::kernels::cuda::Site{kernel, __FILE__, __LINE__})

/// Throw DeviceError unless `status` is success.
inline void check(cudaError_t status, Site site, const char* what) {
  if (status == cudaSuccess) return;
  detail::raise<DeviceError>(site.file, ":", site.line, ": ", what, " of ", site.kernel,
                             " failed: ", cudaGetErrorString(status));
}

/// Queue a kernel on `stream` (a cudaStream_t) with `threads` per CTA and static shared memory only; no CTAs, no
/// launch.
template <typename... Params, typename... Arguments>
void launch(Site site, void (*kernel)(Params...), dim3 grid, unsigned threads, void* stream, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), site, "launch");
}

/// Call fn with a value of the element type of `dtype`, one of those a model may have.
template <typename Fn>
void with_model_type(DType dtype, Fn fn) {
  switch (dtype) {
    case DType::kFloat32: return fn(float{});
    case DType::kBFloat16: return fn(__nv_bfloat16{});
    case DType::kFloat16: return fn(__half{});
    default: detail::raise<InternalError>("no CUDA kernel for dtype ", static_cast<int>(dtype));
  }
}

/// Whether every pointer may be read in vectors of 16 bytes; null may.
inline bool aligned(std::initializer_list<const void*> pointers) {
  std::uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<std::uintptr_t>(pointer);
  return bits % 16 == 0;
}

/// Whether every size or stride is a multiple of `unit`.
inline bool multiples(std::int64_t unit, std::initializer_list<std::int64_t> sizes) {
  for (const std::int64_t size : sizes) {
    if (size % unit != 0) return false;
  }
  return true;
}

inline unsigned ceil_div(std::int64_t a, std::int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace fastserve::kernels::cuda
