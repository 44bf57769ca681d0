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

std::string probe_cuda_problem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  (void)cudaGetLastError();
  int driver = 0;  // the newest CUDA that it knows, for example 12040; 0 without a driver
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no NVIDIA driver was found; install one (in a container: start it with its GPUs)";
  }
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver supports CUDA " + std::to_string(driver / 1000) + "." +
           std::to_string(driver % 1000 / 10) + ", this build needs " + probe_cuda_build().build_version +
           "; install a newer driver or build with an older CUDA";
  }
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    return "the NVIDIA driver shows no GPU; look at nvidia-smi and at CUDA_VISIBLE_DEVICES";
  }
  return std::string("CUDA does not start: ") + cudaGetErrorString(status) + "; look at nvidia-smi";
}

std::vector<CudaDevice> probe_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<CudaDevice> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.push_back(
        {properties.name, properties.major, properties.minor, static_cast<std::int64_t>(properties.totalGlobalMem)});
  }
  return devices;
}

#else

CudaProbe probe_cuda_build() { return {}; }
std::string probe_cuda_problem() { return "this build of FastServe has no CUDA; build it where nvcc is found"; }
std::vector<CudaDevice> probe_cuda_devices() { return {}; }

#endif

}  // namespace fastserve
