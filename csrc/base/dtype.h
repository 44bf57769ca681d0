#pragma once

#include <cstdint>

namespace fastserve {

/// Element types a tensor may have. A header of its own, free of the standard library, for the CPU kernels.
enum class DType : std::uint8_t { kFloat32, kFloat16, kBFloat16, kInt32, kInt64, kUInt8, kBool };

}  // namespace fastserve
