#pragma once

#include <cstdint>
#include <filesystem>

namespace fastserve::offload {

/// Bytes this process could still fill: what the kernel counts as available, or what is left of the cgroup (v2) memory
/// limit where that is less. Page cache counts as available. INT64_MAX when the system does not say.
std::int64_t available_host_bytes();

/// The least that is left below any limit from `root` down to its descendant `root / own`.
std::int64_t available_below(const std::filesystem::path& root, const std::filesystem::path& own);

/// The same for one cgroup directory: memory.max less the anonymous and shared memory in memory.stat; INT64_MAX
/// without a limit.
std::int64_t available_cgroup_bytes(const std::filesystem::path& cgroup);

}  // namespace fastserve::offload
