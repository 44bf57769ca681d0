#pragma once

#include "base/tensor_view.h"
#include "kernels/isa.h"

/// Run a checked operator where its operands lie: FS_DISPATCH(device, rms_norm, params, stream, pool) calls
/// rms_norm_cuda(params, stream) for DeviceType::kCuda and the version of rms_norm that fits this CPU otherwise.
/// `device` comes from device_of, which refuses the GPU in a build without CUDA.
#ifdef FASTSERVE_WITH_CUDA
#define FS_DISPATCH(device, function, params, stream, pool)     \
  do {                                                          \
    if ((device) == ::fastserve::DeviceType::kCuda) {           \
      function##_cuda(params, reinterpret_cast<void*>(stream)); \
    } else {                                                    \
      FS_DISPATCH_CPU(function, params, pool);                  \
    }                                                           \
  } while (false)
#else
#define FS_DISPATCH(device, function, params, stream, pool) \
  do {                                                      \
    static_cast<void>(device);                              \
    FS_DISPATCH_CPU(function, params, pool);                \
  } while (false)
#endif
