#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "kv/kv_manager.h"
#include "kv/per_tier.h"
#include "kv_fixture.h"

namespace fastserve::kv {

/// A KvManager over simulated memory, driven by random operations.
///
/// Every position of every block holds a stamp: what the KV depends on (salt and all tokens up to there) and a number
/// of the write. Transfers are executed block by block at random moments between their start and their completion, in
/// any order; their targets, and blocks just reserved, hold garbage until they are written. A sequence must find the
/// very stamps it wrote or adopted whenever it is on the device.
class SimulatedWorld {
 public:
  /// What happened, to see that a test tests something.
  struct Tally {
    std::int64_t offloads, mirrors, uploads, failures, adopted_on_device, adopted_on_host, refused, moves_without_copy;
  };

  SimulatedWorld(const KvConfig& config, std::uint64_t seed, Tally& tally);

  /// One random operation, then every check.
  void step();

  /// Complete all transfers and end all sequences; nothing may be held afterwards.
  void drain();

 private:
  struct Stamp {
    std::uint64_t context = 0;
    std::int64_t write = 0;  // 0: garbage
    bool operator==(const Stamp&) const = default;
  };
  using Memory = std::vector<Stamp>;  // [blocks, block_size]

  struct Model {
    Tokens tokens;
    std::uint64_t salt = 0;
    std::vector<Stamp> expected;  // per computed position; write 0: adopted, and not yet seen
  };

  struct Copy {
    Transfer transfer;
    std::vector<bool> done;
  };

  Stamp* slots(Tier tier, BlockId block) { return &memory_[tier][index_of(block) * config_.block_size]; }
  std::uint64_t context(const Model& model, std::int64_t position) const;
  void poison(Tier tier, BlockId block);
  Tokens random_prompt();

  void begin();
  void grow(SeqId seq, Model& model);
  void move_out(SeqId seq);
  void mirror(SeqId seq);
  void move_in(SeqId seq);
  void give_up(SeqId seq);
  void launch(const Transfer& transfer);
  void execute_block(Copy& copy, std::size_t i);
  void progress();
  void complete(std::size_t index, bool ok);
  void expect_unchanged(const PerTier<TierUsage>& before) const;
  PerTier<TierUsage> usage() const { return {kv_.usage(Tier::kDevice), kv_.usage(Tier::kHost)}; }
  void check();
  void check_contents(SeqId seq, Model& model);

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  KvConfig config_;
  KvManager kv_;
  std::mt19937_64 random_;
  PerTier<Memory> memory_;
  std::map<std::int64_t, Model> models_;
  std::vector<Copy> copies_;
  std::int64_t num_writes_ = 0;
  Tally& tally_;
};

}  // namespace fastserve::kv
