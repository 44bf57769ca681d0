#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "arenas.h"
#include "internals/fault_injector.h"

namespace fastserve::offload {
namespace {

constexpr std::int32_t kDeviceBlocks = 64;
constexpr std::int32_t kHostBlocks = 96;
constexpr std::int64_t kBlockBytes = 1024;
constexpr std::int64_t kTransfers = 10'000;

/// What every block should hold: the stamp it is filled with. A target of a failed transfer is rewritten by the test.
struct Model {
  struct Block {
    std::uint64_t stamp = 0;
    bool busy = false;
  };
  std::vector<Block> device = std::vector<Block>(kDeviceBlocks);
  std::vector<Block> host = std::vector<Block>(kHostBlocks);

  std::vector<Block>& sources(Direction d) { return d == Direction::kDeviceToHost ? device : host; }
  std::vector<Block>& targets(Direction d) { return d == Direction::kDeviceToHost ? host : device; }
};

/// Random transfers between idle blocks under random delays and failures, both directions at once, held against a
/// model.
class OffloadStress : public testing::Test {
 protected:
  OffloadStress() {
    for (std::int32_t b = 0; b < kDeviceBlocks; ++b) fill(arenas.device_block(b), model.device, b);
    for (std::int32_t b = 0; b < kHostBlocks; ++b) fill(arenas.host->block(b), model.host, b);
  }

  void fill(std::span<std::byte> bytes, std::vector<Model::Block>& blocks, std::int32_t block) {
    const std::uint64_t stamp = blocks[static_cast<std::size_t>(block)].stamp = ++last_stamp;
    for (std::size_t at = 0; at < bytes.size(); at += 8) std::memcpy(&bytes[at], &stamp, 8);
  }

  static void expect_filled(std::span<const std::byte> bytes, std::uint64_t stamp) {
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
      ASSERT_EQ(std::memcmp(&bytes[at], &stamp, 8), 0) << "byte " << at << ", stamp " << stamp;
    }
  }

  std::span<std::byte> target_bytes(Direction direction, std::int32_t block) {
    return direction == Direction::kDeviceToHost ? arenas.host->block(block) : arenas.device_block(block);
  }

  Ids pick_idle(std::vector<Model::Block>& blocks, std::size_t most) {
    Ids picked;
    // A random start and then neighbours, so that runs to coalesce come up.
    auto block = static_cast<std::size_t>(random() % blocks.size());
    for (std::size_t tried = 0; tried < blocks.size() && picked.size() < most; ++tried) {
      if (!blocks[block].busy) picked.push_back(static_cast<std::int32_t>(block));
      block = (block + (random() % 4 == 0 ? 7 : 1)) % blocks.size();
      if (std::find(picked.begin(), picked.end(), static_cast<std::int32_t>(block)) != picked.end()) break;
    }
    return picked;
  }

  bool submit_one() {
    const auto direction = random() % 2 == 0 ? Direction::kDeviceToHost : Direction::kHostToDevice;
    QueuedTransfer transfer{{}, direction, pick_idle(model.sources(direction), 1 + random() % 6), {}};
    transfer.target_blocks = pick_idle(model.targets(direction), transfer.source_blocks.size());
    transfer.source_blocks.resize(transfer.target_blocks.size());
    if (transfer.source_blocks.empty()) return false;
    const auto ticket = engine.try_submit(transfer.view());
    if (!ticket) return false;
    for (const auto b : transfer.source_blocks) model.sources(direction)[static_cast<std::size_t>(b)].busy = true;
    for (const auto b : transfer.target_blocks) model.targets(direction)[static_cast<std::size_t>(b)].busy = true;
    in_flight[*ticket] = std::move(transfer);
    return true;
  }

  void settle(const Completion& completion) {
    const auto node = in_flight.extract(completion.ticket);
    ASSERT_FALSE(node.empty());
    const QueuedTransfer& transfer = node.mapped();
    num_failed += completion.ok ? 0 : 1;
    auto& sources = model.sources(completion.direction);
    auto& targets = model.targets(completion.direction);
    for (std::size_t i = 0; i < transfer.source_blocks.size(); ++i) {
      const std::int32_t target = transfer.target_blocks[i];
      auto& source_block = sources[static_cast<std::size_t>(transfer.source_blocks[i])];
      auto& target_block = targets[static_cast<std::size_t>(target)];
      if (completion.ok) {
        target_block.stamp = source_block.stamp;
        expect_filled(target_bytes(completion.direction, target), target_block.stamp);
      } else {
        fill(target_bytes(completion.direction, target), targets, target);
      }
      source_block.busy = target_block.busy = false;
    }
  }

  Arenas arenas{kDeviceBlocks, kHostBlocks, kBlockBytes};
  CpuOffloadEngine engine{arenas.device, arenas.host, {.queue_capacity = 8}};
  Model model;
  std::mt19937_64 random{2024};
  std::uint64_t last_stamp = 0;
  std::map<Ticket, QueuedTransfer> in_flight;
  std::int64_t num_failed = 0;
};

TEST_F(OffloadStress, TenThousandRandomTransfersMatchTheModel) {
  const auto faults = FaultInjector::install(engine);
  faults->inject_random_delay(50e-6, 5);
  std::int64_t num_submitted = 0;
  while (num_submitted < kTransfers || !in_flight.empty()) {
    if (num_submitted % 100 == 0) faults->inject_failure(Direction::kDeviceToHost, 1);
    if (num_submitted % 130 == 0) faults->inject_failure(Direction::kHostToDevice, 2);
    const bool submitted = num_submitted < kTransfers && submit_one();
    num_submitted += submitted ? 1 : 0;
    if (!submitted) {
      ASSERT_TRUE(engine.wait_any(kForeverS) || in_flight.empty());
    }
    for (const Completion& completion : engine.poll()) ASSERT_NO_FATAL_FAILURE(settle(completion));
    if (num_submitted % 64 == 0) {  // a step of the model writes an idle block meanwhile
      const Ids idle = pick_idle(model.device, 1);
      if (!idle.empty()) fill(arenas.device_block(idle[0]), model.device, idle[0]);
      engine.check_integrity();
    }
  }
  for (std::int32_t b = 0; b < kDeviceBlocks; ++b) {
    expect_filled(arenas.device_block(b), model.device[static_cast<std::size_t>(b)].stamp);
  }
  for (std::int32_t b = 0; b < kHostBlocks; ++b) {
    expect_filled(arenas.host->block(b), model.host[static_cast<std::size_t>(b)].stamp);
  }
  EXPECT_GT(num_failed, 100);
  EXPECT_EQ(engine.num_in_flight(), 0);
  engine.check_integrity();
}

}  // namespace
}  // namespace fastserve::offload
