#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastserve::smoke {

/// Queue: target[i] = 3 i + seed for i < count. A thread per number.
void launch_numbers(std::int32_t* target, int count, std::int32_t seed, cudaStream_t stream);

/// Queue `ctas` thread blocks of `threads` threads and `shared_bytes` each, which wait for one another, but not longer than
/// patience_ns. arrived: one word, 0. seen: [ctas], how many had begun when each one stopped waiting.
/// carveout: per cent of the memory of a processor to be shared memory; -1 leaves that to the driver.
void launch_gathering(std::uint32_t* arrived, std::uint32_t* seen, int ctas, int threads, int shared_bytes,
                      int carveout, std::uint64_t patience_ns, cudaStream_t stream);

}  // namespace fastserve::smoke
