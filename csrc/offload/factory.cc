#include "offload/factory.h"

#include <utility>

#include "base/error.h"
#include "offload/cpu_offload.h"

namespace fastserve::offload {

std::unique_ptr<OffloadEngine> make_offload_engine(const TensorView& device_arena,
                                                   std::shared_ptr<const HostArena> host_arena,
                                                   const OffloadOptions& options) {
  FS_REQUIRE(device_arena.device == DeviceType::kCpu,
             "KV can be offloaded from a device_arena on the cpu only, got ", device_arena.describe(),
             "; keep the KV cache on the cpu or run without host blocks");
  return std::make_unique<CpuOffloadEngine>(device_arena, std::move(host_arena), options);
}

}  // namespace fastserve::offload
