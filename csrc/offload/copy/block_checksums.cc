#include "offload/copy/block_checksums.h"

namespace fastserve::offload {

BlockChecksums::BlockChecksums(std::int64_t num_host_blocks) : remembered_(static_cast<std::size_t>(num_host_blocks)) {}

void BlockChecksums::forget(std::int32_t host_block) { remembered_[static_cast<std::size_t>(host_block)] = {}; }

std::string BlockChecksums::offload_ended(std::int32_t device_block, std::uint64_t device_hash, std::int32_t host_block,
                                          std::uint64_t host_hash) {
  std::string error = compare(device_block, device_hash, host_block, host_hash);
  if (error.empty()) remembered_[static_cast<std::size_t>(host_block)] = {host_hash, true};
  return error;
}

std::string BlockChecksums::upload_ended(std::int32_t device_block, std::uint64_t device_hash,
                                         std::int32_t host_block) {
  const Remembered& remembered = remembered_[static_cast<std::size_t>(host_block)];
  if (!remembered.known) {
    return "checksum unknown: host block " + std::to_string(host_block) + " was not filled by an offload that ended ok";
  }
  return compare(device_block, device_hash, host_block, remembered.hash);
}

std::string BlockChecksums::compare(std::int32_t device_block, std::uint64_t device_hash, std::int32_t host_block,
                                    std::uint64_t host_hash) {
  num_verified_.fetch_add(1, std::memory_order_relaxed);
  if (device_hash == host_hash) return {};
  num_mismatches_.fetch_add(1, std::memory_order_relaxed);
  return "checksum mismatch: device block " + std::to_string(device_block) + ", host block " +
         std::to_string(host_block);
}

}  // namespace fastserve::offload
