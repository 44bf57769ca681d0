#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "offload/cpu_offload.h"

namespace fastserve::offload {

inline constexpr double kForeverS = std::numeric_limits<double>::infinity();
inline constexpr double kBeyondAnyTestS = 3600;  // an injected delay that only close() ends

using Ids = std::vector<std::int32_t>;

inline Transfer offload_of(const Ids& device, const Ids& host) { return {Direction::kDeviceToHost, device, host}; }
inline Transfer upload_of(const Ids& host, const Ids& device) { return {Direction::kHostToDevice, host, device}; }

/// A device arena of random bytes and a zeroed host arena of the same block size.
struct Arenas {
  Arenas(std::int64_t num_device_blocks, std::int64_t num_host_blocks, std::int64_t block_bytes)
      : device_bytes(static_cast<std::size_t>(num_device_blocks * block_bytes)),
        host(std::make_shared<HostArena>(num_host_blocks, block_bytes)) {
    std::mt19937_64 random(7);
    for (auto& byte : device_bytes) byte = static_cast<std::byte>(random());
    device.data = device_bytes.data();
    device.dtype = DType::kUInt8;
    device.ndim = 2;
    device.shape = {num_device_blocks, block_bytes};
    device.strides = {block_bytes, 1};
  }

  std::span<std::byte> device_block(std::int32_t block) {
    const auto size = static_cast<std::size_t>(host->block_bytes());
    return {device_bytes.data() + static_cast<std::size_t>(block) * size, size};
  }
  std::vector<std::byte> device_copy(std::int32_t block) {
    const auto bytes = device_block(block);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::byte> host_copy(std::int32_t block) const {
    const auto bytes = host->block(block);
    return {bytes.begin(), bytes.end()};
  }

  std::vector<std::byte> device_bytes;
  TensorView device;
  std::shared_ptr<HostArena> host;
};

}  // namespace fastserve::offload
