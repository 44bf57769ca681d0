#include "base/cuda_probe.h"

#ifdef FASTSERVE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastserve {

#ifdef FASTSERVE_WITH_CUDA

CudaProbe probe_cuda_build() {
  return {true, std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10),
          FASTSERVE_CUDA_ARCHITECTURES};
}

std::vector<CudaDevice> probe_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<CudaDevice> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.push_back({properties.name, properties.major, properties.minor,
                       static_cast<std::int64_t>(properties.totalGlobalMem)});
  }
  return devices;
}

#else

CudaProbe probe_cuda_build() { return {}; }
std::vector<CudaDevice> probe_cuda_devices() { return {}; }

#endif

}  // namespace fastserve
