#pragma once

#include <cstddef>
#include <string>

namespace cudart {

/// The GPU that there seems to be.
struct Device {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int num_processors = 3;    // few, so that small problems fill them
  std::size_t shared_bytes_per_processor = 0;
  std::size_t most_shared_bytes = 0;  // of a CTA that asks for more than kOrdinarySharedBytes
};

constexpr std::size_t kOrdinarySharedBytes = 48 << 10;
constexpr std::size_t kReservedSharedBytes = 1 << 10;  // of every CTA, by the driver
constexpr int kMostThreadsPerCta = 1024;
constexpr int kMostThreadsPerProcessor = 2048;
constexpr int kMostCtasPerProcessor = 32;

/// GPU_SIMULATOR_CAPABILITY: "9.0" (an H100, the default) or "8.0" (an A100).
const Device& device();

}  // namespace cudart
