#include "offload/in_flight_blocks.h"

#include <algorithm>
#include <limits>
#include <span>

#include "base/error.h"

namespace fastserve::offload {
namespace {

const char* source_arena(Direction direction) { return direction == Direction::kDeviceToHost ? "device" : "host"; }
const char* target_arena(Direction direction) { return direction == Direction::kDeviceToHost ? "host" : "device"; }

void require_in_range(std::span<const std::int32_t> blocks, std::size_t num_blocks, const char* arena) {
  for (const std::int32_t block : blocks) {
    FS_REQUIRE(block >= 0 && static_cast<std::size_t>(block) < num_blocks, "block ids of the ", arena,
               " arena must be in [0, ", num_blocks, "), got ", block);
  }
}

std::size_t checked_count(std::int64_t num_blocks, const char* arena) {
  FS_REQUIRE(num_blocks >= 1 && num_blocks <= std::numeric_limits<std::int32_t>::max(), "the ", arena,
             " arena must have between 1 and 2^31 - 1 blocks, got ", num_blocks);
  return static_cast<std::size_t>(num_blocks);
}

std::size_t at(std::int32_t block) { return static_cast<std::size_t>(block); }

}  // namespace

InFlightBlocks::InFlightBlocks(std::int64_t num_device_blocks, std::int64_t num_host_blocks)
    : users_{Users(checked_count(num_device_blocks, "device")), Users(checked_count(num_host_blocks, "host"))} {}

void InFlightBlocks::require_valid(const Transfer& transfer) const {
  FS_REQUIRE(transfer.source_blocks.size() == transfer.target_blocks.size(),
             "source_blocks and target_blocks must have the same length, got ", transfer.source_blocks.size(), " and ",
             transfer.target_blocks.size());
  require_in_range(transfer.source_blocks, sources(transfer.direction).size(), source_arena(transfer.direction));
  require_in_range(transfer.target_blocks, targets(transfer.direction).size(), target_arena(transfer.direction));
}

void InFlightBlocks::acquire(const Transfer& transfer) {
  Users& target_users = targets(transfer.direction);
  Users& source_users = sources(transfer.direction);
  for (const std::int32_t block : transfer.source_blocks) {
    FS_REQUIRE(source_users[at(block)] != kWriter, "block ", block, " of the ", source_arena(transfer.direction),
               " arena is still being written by a transfer in flight; copy from it after that one completed");
  }
  for (std::size_t i = 0; i < transfer.target_blocks.size(); ++i) {
    const std::int32_t block = transfer.target_blocks[i];
    if (target_users[at(block)] == 0) {
      target_users[at(block)] = kWriter;
      continue;
    }
    const auto taken = transfer.target_blocks.first(i);
    for (const std::int32_t other : taken) target_users[at(other)] = 0;
    FS_REQUIRE(std::find(taken.begin(), taken.end(), block) == taken.end(), "target_blocks has block ", block,
               " twice; each target may be written once per transfer");
    detail::raise<InvalidArgumentError>("block ", block, " of the ", target_arena(transfer.direction),
                                        " arena is in use by a transfer in flight; write it after that one completed");
  }
  for (const std::int32_t block : transfer.source_blocks) ++source_users[at(block)];
}

void InFlightBlocks::release(const Transfer& transfer) {
  for (const std::int32_t block : transfer.source_blocks) --sources(transfer.direction)[at(block)];
  for (const std::int32_t block : transfer.target_blocks) targets(transfer.direction)[at(block)] = 0;
}

InFlightBlocks InFlightBlocks::empty_copy() const {
  return {static_cast<std::int64_t>(users_[0].size()), static_cast<std::int64_t>(users_[1].size())};
}

}  // namespace fastserve::offload
