#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace fastserve::offload {

/// The KV canary: remembers the hash of every host block from its offload and holds uploads against it.
///
/// Takes hashes, not bytes, so a backend may compute them where the bytes are. Calls for different host blocks may run
/// at once; calls for one host block must be ordered, as transfers on one block are (see OffloadEngine).
class BlockChecksums {
 public:
  explicit BlockChecksums(std::int64_t num_host_blocks);

  /// An offload onto `host_block` starts: what it held is gone.
  void forget(std::int32_t host_block);
  /// The offload ended: both sides must agree, then the hash is remembered. Returns "" or what is wrong.
  std::string offload_ended(std::int32_t device_block, std::uint64_t device_hash, std::int32_t host_block,
                            std::uint64_t host_hash);
  /// An upload ended: the device block must have the remembered hash. Returns "" or what is wrong, which includes a
  /// host block that no offload has filled.
  std::string upload_ended(std::int32_t device_block, std::uint64_t device_hash, std::int32_t host_block);

  std::int64_t num_verified() const { return num_verified_.load(std::memory_order_relaxed); }
  std::int64_t num_mismatches() const { return num_mismatches_.load(std::memory_order_relaxed); }

 private:
  struct Remembered {
    std::uint64_t hash = 0;
    bool known = false;
  };

  std::string compare(std::int32_t device_block, std::uint64_t device_hash, std::int32_t host_block,
                      std::uint64_t host_hash);

  std::vector<Remembered> remembered_;  // [num_host_blocks]
  std::atomic<std::int64_t> num_verified_{0};
  std::atomic<std::int64_t> num_mismatches_{0};
};

}  // namespace fastserve::offload
