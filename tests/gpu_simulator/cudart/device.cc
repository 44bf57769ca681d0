#include "cudart/device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "cudart/runtime.h"

namespace cudart {

const Device& device() {
  static const Device instance = [] {
    const char* wanted = std::getenv("GPU_SIMULATOR_CAPABILITY");
    if (wanted != nullptr && std::string(wanted) == "8.0") {
      return Device{"Simulated A100", 8, 0, 3, 164 << 10, 163 << 10};
    }
    return Device{"Simulated H100", 9, 0, 3, 228 << 10, 227 << 10};
  }();
  return instance;
}

}  // namespace cudart

using cudart::device;
using cudart::status_of;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return status_of("cudaGetDeviceCount");
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) { return index == 0 ? status_of("cudaSetDevice") : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetPCIBusId(char*, int, int) { return cudaErrorInvalidValue; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device().major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device().minor; break;
    case cudaDevAttrMultiProcessorCount: *value = device().num_processors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(device().most_shared_bytes); break;
    case cudaDevAttrCanUseHostPointerForRegisteredMem: *value = 1; break;
    default:
      return cudart::explain(cudaErrorNotSupported,
                             "the simulated GPU has no attribute " + std::to_string(static_cast<int>(attribute)));
  }
  return status_of("cudaDeviceGetAttribute");
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  const std::string& name = device().name;
  std::copy(name.begin(), name.end(), properties->name);
  properties->major = device().major;
  properties->minor = device().minor;
  properties->totalGlobalMem = std::size_t{80} << 30;
  properties->multiProcessorCount = device().num_processors;
  return status_of("cudaGetDeviceProperties");
}

}  // extern "C"
