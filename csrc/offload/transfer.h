#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace fastserve::offload {

/// Which way blocks move between the device arena (KV cache) and the host arena.
enum class Direction : std::uint8_t { kDeviceToHost, kHostToDevice };
inline constexpr std::size_t kNumDirections = 2;
inline constexpr Direction kDirections[kNumDirections] = {Direction::kDeviceToHost, Direction::kHostToDevice};

constexpr std::size_t index_of(Direction direction) { return static_cast<std::size_t>(direction); }
/// "device to host" or "host to device".
constexpr const char* direction_name(Direction direction) {
  return direction == Direction::kDeviceToHost ? "device to host" : "host to device";
}

/// A request to copy block source_blocks[i] onto block target_blocks[i], for every i. Borrows the ids.
struct Transfer {
  Direction direction = Direction::kDeviceToHost;
  std::span<const std::int32_t> source_blocks;  // [num_blocks], of the arena copied from
  std::span<const std::int32_t> target_blocks;  // [num_blocks], of the other arena, no id twice
};

/// Names one submitted transfer for the life of its engine; ascending from 1 in the order of submission.
enum class Ticket : std::int64_t {};

/// Names what the device had been given to do when a transfer was submitted; its backend alone knows the meaning. A
/// backend whose device works on nothing by itself (the CPU) has one point only, 0.
enum class OrderingPoint : std::uint64_t {};

/// How a transfer ended. After a failure the target blocks hold unspecified bytes.
struct Completion {
  Ticket ticket{};
  Direction direction = Direction::kDeviceToHost;
  bool ok = false;
  std::string error;       // empty when ok
  std::int64_t bytes = 0;  // asked for, whether ok or not
  double seconds = 0;      // from the start of the copy, not of the wait in the queue, to its end with verification
};

/// What one direction has done since the engine started.
struct DirectionCounters {
  std::int64_t num_transfers = 0;  // ended, failures and cancellations included
  std::int64_t num_failed = 0;     // of these, not ok
  std::int64_t num_blocks = 0;     // copied by transfers that ended ok
  std::int64_t num_copies = 0;     // contiguous copies these blocks took: adjacent ones share a copy
  std::int64_t bytes = 0;          // copied by transfers that ended ok
};

}  // namespace fastserve::offload
