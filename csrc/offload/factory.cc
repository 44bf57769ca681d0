#include "offload/factory.h"

#include <utility>

#include "base/error.h"
#include "offload/cpu_offload.h"
#ifdef FASTSERVE_WITH_CUDA
#include "offload/cuda/cuda_offload.h"
#endif

namespace fastserve::offload {

std::unique_ptr<OffloadEngine> make_offload_engine(const TensorView& device_arena,
                                                   std::shared_ptr<const HostArena> host_arena,
                                                   const OffloadOptions& options) {
  if (device_arena.device == DeviceType::kCpu) {
    return std::make_unique<CpuOffloadEngine>(device_arena, std::move(host_arena), options);
  }
#ifdef FASTSERVE_WITH_CUDA
  return std::make_unique<CudaOffloadEngine>(device_arena, std::move(host_arena), options);
#else
  detail::raise<InvalidArgumentError>("this build has no CUDA: the device_arena must be on the cpu, got ",
                                      device_arena.describe(), "; build with nvcc or run without host blocks");
#endif
}

}  // namespace fastserve::offload
