#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "offload/transfer.h"

namespace fastserve::offload {

/// Which blocks of the two arenas are read or written by transfers in flight: any number of readers or one writer.
/// Not thread-safe.
class InFlightBlocks {
 public:
  InFlightBlocks(std::int64_t num_device_blocks, std::int64_t num_host_blocks);

  /// Throw InvalidArgumentError unless the lists are of one length and every id is in range.
  void require_valid(const Transfer& transfer) const;
  /// Take the blocks of a valid transfer. Throws InvalidArgumentError, with nothing taken, when a target is given twice
  /// or a block is in use in a way that excludes this one.
  void acquire(const Transfer& transfer);
  /// Give them back.
  void release(const Transfer& transfer);

  bool operator==(const InFlightBlocks&) const = default;
  /// The same arenas with nothing in flight.
  InFlightBlocks empty_copy() const;

 private:
  using Users = std::vector<std::int32_t>;  // per block: number of readers, or kWriter
  static constexpr std::int32_t kWriter = -1;

  Users& sources(Direction direction) { return users_[index_of(direction)]; }
  Users& targets(Direction direction) { return users_[1 - index_of(direction)]; }
  const Users& sources(Direction direction) const { return users_[index_of(direction)]; }
  const Users& targets(Direction direction) const { return users_[1 - index_of(direction)]; }

  std::array<Users, 2> users_;  // device, host
};

}  // namespace fastserve::offload
