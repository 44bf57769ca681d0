#include "simulated_world.h"

#include <algorithm>

namespace fastserve::kv {
namespace {

constexpr std::int64_t kNumIds = 9;
constexpr std::int64_t kMaxTokens = 40;

}  // namespace

SimulatedWorld::SimulatedWorld(const KvConfig& config, std::uint64_t seed, Tally& tally)
    : config_(config),
      kv_(config),
      random_(seed),
      memory_{Memory(config.num_device_blocks * config.block_size), Memory(config.num_host_blocks * config.block_size)},
      tally_(tally) {}

std::uint64_t SimulatedWorld::context(const Model& model, std::int64_t position) const {
  std::uint64_t mixed = model.salt + 1;
  for (std::int64_t i = 0; i <= position; ++i) mixed = (mixed ^ model.tokens[i]) * 0x100000001B3ull + 1;
  return mixed;
}

void SimulatedWorld::poison(Tier tier, BlockId block) { std::fill_n(slots(tier, block), config_.block_size, Stamp{}); }

/// One of two families, mostly: prefixes are shared, and branch off at any place.
Tokens SimulatedWorld::random_prompt() {
  const auto length = static_cast<std::int32_t>(1 + pick(kMaxTokens / 2));
  Tokens tokens = sequence_of(length, static_cast<std::int32_t>(pick(2)) * 100);
  if (pick(3) == 0) tokens[pick(tokens.size())] = 7;
  return tokens;
}

void SimulatedWorld::step() {
  const SeqId seq{static_cast<std::int64_t>(pick(kNumIds))};
  const auto found = models_.find(static_cast<std::int64_t>(seq));
  if (pick(3) == 0) {
    progress();
  } else if (found == models_.end()) {
    begin();
  } else {
    const Residency residency = kv_.residency(seq);
    const std::uint64_t choice = pick(20);
    if (choice == 0) {
      give_up(seq);
    } else if (choice == 1 && pick(20) == 0) {
      kv_.clear_prefix_cache();
    } else if (residency == Residency::kHost) {
      move_in(seq);
    } else if (residency == Residency::kDevice && choice < 7) {
      move_out(seq);
    } else if (residency == Residency::kDevice && choice < 11) {
      mirror(seq);
    } else if (residency == Residency::kDevice || residency == Residency::kNone) {
      grow(seq, found->second);
    }
  }
  check();
}

void SimulatedWorld::begin() {
  std::int64_t id = 0;
  while (models_.contains(id)) ++id;  // the id given up last comes back first: late transfers meet a new owner
  Model model{random_prompt(), pick(8) == 0, {}};
  const std::int64_t probed = kv_.probe_prefix(model.tokens, model.salt);
  const std::int64_t adopted = kv_.begin(SeqId{id}, model.tokens, model.salt);
  ASSERT_EQ(adopted, probed);
  ASSERT_EQ(adopted % config_.block_size, 0);
  ASSERT_LT(adopted, std::ssize(model.tokens));
  const Residency residency = kv_.residency(SeqId{id});
  ASSERT_EQ(residency == Residency::kNone, adopted == 0);
  tally_.adopted_on_device += residency == Residency::kDevice;
  tally_.adopted_on_host += residency == Residency::kHost;
  model.expected.resize(adopted);
  models_.emplace(id, std::move(model));
}

/// A prefill chunk or a decode: reserve, write, commit.
void SimulatedWorld::grow(SeqId seq, Model& model) {
  const std::int64_t computed = kv_.num_computed(seq);
  if (computed == std::ssize(model.tokens)) {
    if (computed >= kMaxTokens) return give_up(seq);
    model.tokens.push_back(static_cast<std::int32_t>(pick(2)));
  }
  const std::int64_t target = computed + 1 + static_cast<std::int64_t>(pick(std::ssize(model.tokens) - computed));
  const auto before = usage();
  const std::int32_t missing = kv_.num_blocks_to_reserve(seq, target);
  if (!kv_.try_reserve(seq, target)) {
    ASSERT_GT(missing, before.device.free);
    expect_unchanged(before);
    ++tally_.refused;
    if (pick(3) == 0) give_up(seq);
    return;
  }
  ASSERT_LE(missing, before.device.free);
  const std::span<const BlockId> blocks = kv_.device_blocks(seq);
  for (std::size_t i = blocks.size() - missing; i < blocks.size(); ++i) poison(Tier::kDevice, blocks[i]);
  for (std::int64_t position = computed; position < target; ++position) {
    const Stamp stamp{context(model, position), ++num_writes_};
    slots(Tier::kDevice, blocks[position / config_.block_size])[position % config_.block_size] = stamp;
    model.expected.push_back(stamp);
  }
  kv_.commit_computed(seq, model.tokens, target);
}

void SimulatedWorld::move_out(SeqId seq) {
  const auto before = usage();
  const std::int32_t num_copies = kv_.num_blocks_to_offload(seq);
  const auto transfer = kv_.try_offload(seq);
  if (!transfer) {
    ++tally_.refused;
    ASSERT_EQ(kv_.residency(seq), Residency::kDevice);
    return expect_unchanged(before);
  }
  ASSERT_EQ(std::ssize(transfer->source), num_copies);
  ASSERT_TRUE(num_copies == 0 || kv_.residency(seq) == Residency::kOffloading);
  ++tally_.offloads;
  tally_.moves_without_copy += kv_.residency(seq) == Residency::kHost;
  launch(*transfer);
}

void SimulatedWorld::mirror(SeqId seq) {
  const auto before = usage();
  const auto max_blocks = static_cast<std::int32_t>(1 + pick(3));
  const auto transfer = kv_.try_mirror(seq, max_blocks);
  if (!transfer) return expect_unchanged(before);
  ASSERT_LE(std::ssize(transfer->source), max_blocks);
  ++tally_.mirrors;
  launch(*transfer);
}

void SimulatedWorld::move_in(SeqId seq) {
  const auto before = usage();
  const std::int32_t num_taken = kv_.num_blocks_to_upload(seq);
  const auto transfer = kv_.try_upload(seq);
  ASSERT_EQ(transfer.has_value(), num_taken <= before.device.free);
  if (!transfer) {
    ++tally_.refused;
    return expect_unchanged(before);
  }
  ASSERT_EQ(kv_.num_free(Tier::kDevice), before.device.free - num_taken);
  ++tally_.uploads;
  tally_.moves_without_copy += transfer->source.empty();
  launch(*transfer);
}

void SimulatedWorld::give_up(SeqId seq) {
  if (pick(2) == 0) {
    kv_.drop(seq);
    models_.at(static_cast<std::int64_t>(seq)).expected.clear();
  } else {
    kv_.end(seq);
    models_.erase(static_cast<std::int64_t>(seq));
  }
}

void SimulatedWorld::launch(const Transfer& transfer) {
  if (transfer.source.empty()) return;
  const Tier to = transfer.kind == TransferKind::kUpload ? Tier::kDevice : Tier::kHost;
  for (const BlockId block : transfer.target) poison(to, block);
  copies_.push_back({transfer, std::vector<bool>(transfer.source.size())});
}

void SimulatedWorld::execute_block(Copy& copy, std::size_t i) {
  const Tier from = copy.transfer.kind == TransferKind::kUpload ? Tier::kHost : Tier::kDevice;
  std::copy_n(slots(from, copy.transfer.source[i]), config_.block_size,
              slots(other_tier(from), copy.transfer.target[i]));
  copy.done[i] = true;
}

void SimulatedWorld::progress() {
  if (copies_.empty()) return;
  const std::size_t index = pick(copies_.size());
  Copy& copy = copies_[index];
  if (pick(3) != 0) {
    execute_block(copy, pick(copy.done.size()));
    return;
  }
  complete(index, pick(10) != 0);
}

void SimulatedWorld::complete(std::size_t index, bool ok) {
  Copy copy = copies_[index];
  copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(index));
  const Tier to = copy.transfer.kind == TransferKind::kUpload ? Tier::kDevice : Tier::kHost;
  for (std::size_t i = 0; i < copy.done.size(); ++i) {
    if (ok && !copy.done[i]) execute_block(copy, i);
    if (!ok && pick(2) == 0) poison(to, copy.transfer.target[i]);
  }
  tally_.failures += !ok;
  kv_.complete(copy.transfer.id, ok);
}

void SimulatedWorld::expect_unchanged(const PerTier<TierUsage>& before) const {
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    const TierUsage now = kv_.usage(tier), then = before[tier];
    ASSERT_EQ(now.free, then.free);
    ASSERT_EQ(now.used, then.used);
    ASSERT_EQ(now.in_transfer, then.in_transfer);
    ASSERT_EQ(now.cached, then.cached);
  }
}

void SimulatedWorld::check() {
  ASSERT_NO_THROW(kv_.check_integrity());
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    const TierUsage now = kv_.usage(tier);
    ASSERT_EQ(now.free + now.used + now.in_transfer, now.total);
    ASSERT_LE(now.cached, now.free);
  }
  for (auto& [id, model] : models_) {
    const SeqId seq{id};
    ASSERT_EQ(kv_.num_computed(seq), std::ssize(model.expected));
    const Residency residency = kv_.residency(seq);
    const bool moving = residency == Residency::kOffloading || residency == Residency::kUploading;
    ASSERT_FALSE(moving && copies_.empty()) << "sequence " << id << " waits for nothing";
    if (residency == Residency::kDevice || residency == Residency::kOffloading) check_contents(seq, model);
  }
}

void SimulatedWorld::check_contents(SeqId seq, Model& model) {
  const std::span<const BlockId> blocks = kv_.device_blocks(seq);
  for (std::int64_t position = 0; position < std::ssize(model.expected); ++position) {
    const Stamp found = slots(Tier::kDevice, blocks[position / config_.block_size])[position % config_.block_size];
    Stamp& expected = model.expected[position];
    if (expected.write == 0 && found.write != 0 && found.context == context(model, position)) expected = found;
    ASSERT_EQ(found, expected) << "sequence " << static_cast<std::int64_t>(seq) << " position " << position;
  }
}

void SimulatedWorld::drain() {
  while (!copies_.empty()) {
    complete(pick(copies_.size()), pick(2) == 0);
    check();
  }
  for (const auto& [id, model] : models_) kv_.end(SeqId{id});
  models_.clear();
  check();
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    ASSERT_EQ(kv_.num_free(tier), kv_.usage(tier).total);
  }
  kv_.clear_prefix_cache();
  check();
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) ASSERT_EQ(kv_.usage(tier).cached, 0);
}

namespace {

struct Setting {
  const char* name;
  KvConfig config;
};

class SimulatedWorldTest : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(All, SimulatedWorldTest,
                         ::testing::Values(Setting{"Ample", {4, 64, 64, true}}, Setting{"Tight", {4, 14, 20, true}},
                                           Setting{"TightWithoutCaching", {4, 14, 20, false}},
                                           Setting{"LittleHost", {4, 24, 6, true}}, Setting{"NoHost", {4, 16, 0, true}},
                                           Setting{"BlocksOfOneToken", {1, 48, 64, true}},
                                           Setting{"OddBlocks", {3, 20, 40, true}},
                                           Setting{"OddBlocksWithoutCaching", {3, 20, 12, false}}),
                         [](const auto& setting) { return setting.param.name; });

TEST_P(SimulatedWorldTest, SequencesFindTheirOwnKvWhateverIsCopiedWhenAndNothingLeaks) {
  const KvConfig& config = GetParam().config;
  SimulatedWorld::Tally tally{};
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    SimulatedWorld world(config, seed, tally);
    for (int i = 0; i < 2500; ++i) {
      world.step();
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " step " << i;
    }
    world.drain();
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
  }
  EXPECT_EQ(tally.adopted_on_device > 0, config.enable_prefix_caching);
  if (config.num_host_blocks == 0) return;
  for (const auto count : {tally.offloads, tally.mirrors, tally.uploads, tally.failures, tally.moves_without_copy}) {
    EXPECT_GT(count, 50);
  }
  EXPECT_EQ(tally.adopted_on_host > 0, config.enable_prefix_caching);
  EXPECT_TRUE(tally.refused > 100 || config.num_device_blocks > 60);
}

}  // namespace
}  // namespace fastserve::kv
