#pragma once

#include <cstdint>
#include <vector>

namespace fastserve::kv {

/// Index of a block in the pool of its tier.
enum class BlockId : std::int32_t {};
/// A sequence, that is the request that owns the KV; chosen by the caller, unique among live sequences.
enum class SeqId : std::int64_t {};
/// A copy under way; never reused.
enum class TransferId : std::int64_t {};

constexpr std::int32_t index_of(BlockId block) { return static_cast<std::int32_t>(block); }

enum class Tier : std::uint8_t { kDevice, kHost };

/// Where the KV of a sequence is. Only kDevice may run. In the two transfer states the blocks on both tiers are held
/// until the copy is reported complete.
enum class Residency : std::uint8_t { kNone, kDevice, kOffloading, kHost, kUploading };

/// Why blocks are copied. An offload gives up the device copy when it completes; a mirror (write-through of full, hence
/// immutable, blocks) keeps both; an upload keeps the host copies of full blocks as mirrors.
enum class TransferKind : std::uint8_t { kOffload, kMirror, kUpload };

/// Blocks to copy from one tier to the other; source[i] goes to target[i]. Offload and mirror: device to host.
struct Transfer {
  TransferId id{};
  SeqId seq{};
  TransferKind kind = TransferKind::kOffload;
  std::vector<BlockId> source;
  std::vector<BlockId> target;
};

}  // namespace fastserve::kv
