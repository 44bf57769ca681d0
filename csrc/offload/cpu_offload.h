#pragma once

#include <memory>
#include <vector>

#include "offload/threaded_engine.h"

namespace fastserve::offload {

/// Real copies between a KV cache in CPU memory, which plays the device, and the host arena. There is nothing to be
/// ordered after: the caller's writes of a block are done when it submits its transfer.
class CpuOffloadEngine final : public ThreadedOffloadEngine {
 public:
  /// `device_arena` [num_blocks, ...] is contiguous, on the cpu and outlives the engine; its blocks have the size of
  /// the host arena's. Throws InvalidArgumentError otherwise, or when the two share memory.
  CpuOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                   const OffloadOptions& options);
  ~CpuOffloadEngine() override;

 private:
  CopyReport copy(Direction direction, const std::vector<CopyRun>& runs, OrderingPoint after) override;
  std::vector<std::uint64_t> device_hashes(Direction direction, std::span<const std::int32_t> blocks) override;
};

}  // namespace fastserve::offload
