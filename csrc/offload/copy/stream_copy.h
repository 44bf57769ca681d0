#pragma once

#include <cstddef>

namespace fastserve::offload {

/// memcpy for bytes that are not read soon: large copies bypass the caches on the way out, which leaves the compute
/// threads' data there and spares the read of the target. The ranges must not overlap.
void stream_copy(std::byte* target, const std::byte* source, std::size_t num_bytes);

}  // namespace fastserve::offload
