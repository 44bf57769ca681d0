#pragma once

#include <memory>

#include "base/tensor_view.h"
#include "offload/host/host_arena.h"
#include "offload/offload_engine.h"

namespace fastserve::offload {

/// The engine for the device that `device_arena` [num_blocks, ...] lies on. The tensor must outlive the engine; the
/// host arena is shared. Throws InvalidArgumentError: a device without a backend, arenas that do not fit each other.
std::unique_ptr<OffloadEngine> make_offload_engine(const TensorView& device_arena,
                                                   std::shared_ptr<const HostArena> host_arena,
                                                   const OffloadOptions& options);

}  // namespace fastserve::offload
