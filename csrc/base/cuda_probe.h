#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastserve {

/// What the CUDA side of this build is; `compiled` is false in a build without nvcc.
struct CudaProbe {
  bool compiled = false;
  std::string build_version;  // "13.0", of the runtime linked in
  std::string architectures;  // "80-real;90a-real;90-virtual"
};

struct CudaDevice {
  std::string name;
  int major = 0;
  int minor = 0;
  std::int64_t memory_bytes = 0;
};

CudaProbe probe_cuda_build();
/// Why no device can be used: no driver, one that is too old for this build, no device, no CUDA in the build; with the
/// remedy. "" when there is a device. Never throws.
std::string probe_cuda_problem();

/// The devices the driver shows; empty without a driver, a device or CUDA in the build. Never throws.
std::vector<CudaDevice> probe_cuda_devices();

}  // namespace fastserve
