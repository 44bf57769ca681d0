#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace fastserve::offload {

/// One contiguous copy; both addresses are valid on the device.
struct Fragment {
  std::byte* target;
  const std::byte* source;
  std::int64_t num_bytes;
};

inline constexpr int kMaxFragments = 128;

/// What one launch copies, passed by value.
struct FragmentList {
  int count = 0;
  Fragment fragments[kMaxFragments];
};
static_assert(sizeof(FragmentList) <= 4096, "kernel parameters hold at most 4 KiB on every architecture");

/// Queue the copies on `stream` as one kernel of at most two thread blocks, so that it takes little from the kernels
/// beside it. For pieces too small for a copy engine, which needs about a microsecond for each.
/// Throws DeviceError when the launch fails.
void launch_fragment_copy(const FragmentList& list, cudaStream_t stream);

}  // namespace fastserve::offload
