#include "sched/batch_picker.h"

#include <gtest/gtest.h>

#include <memory>
#include <type_traits>
#include <vector>

#include "request_peer.h"
#include "sched/policies/policy_factory.h"
#include "sched/requests/request_table.h"

namespace fastserve::sched {
namespace {

static_assert(std::is_constructible_v<BatchPicker, const SchedulerCore&, SwapPlanner&, const KvMover&>);

using Kind = Move::Kind;
using Kinds = std::vector<Kind>;

/// Blocks of 4 tokens, 6 on the device; the test is the one that carries moves out, or does not.
class BatchPickerTest : public ::testing::Test {
 protected:
  LatencyModel latency_{LatencyModel::Coefficients{1, 0, 0, 0, 0}};
  kv::KvManager kv_{kv::KvConfig{4, 6, 6, false}};
  SchedulerConfig config_ = [] {
    SchedulerConfig config;
    config.policy = &policy_named("priority");
    config.max_num_seqs = 4;
    config.max_num_batched_tokens = 32;
    return config;
  }();
  SchedulerCore core_{
      .config = config_, .kv = kv_, .latency = latency_, .policy = config_.policy->make(config_, latency_)};
  SwapPlanner planner_{core_};
  KvMover mover_{core_};
  BatchPicker picker_{core_, planner_, mover_};
  RequestTable table_;

  Request& add(std::int64_t id, std::int32_t prompt_tokens, std::int32_t priority = 0) {
    RequestOptions options;
    options.priority = priority;
    const std::vector<std::int32_t> prompt(static_cast<std::size_t>(prompt_tokens), 1);
    Request& request = table_.add(id, prompt, prompt_tokens + 8, options, 0.0);
    ++core_.num_in_state[static_cast<std::size_t>(RequestState::kWaiting)];
    mover_.expect_start(request, core_.blocks_for(prompt_tokens) + 1);
    core_.policy->join(request, core_.now_s, 1.0);
    return request;
  }

  bool carry_out(const Move& move) {
    if (move.kind == Kind::kStart) return mover_.start(*move.request, move.spare_blocks);
    if (move.kind == Kind::kReserve) return mover_.reserve(*move.request, move.request->length());
    if (move.kind == Kind::kEvict) mover_.evict(*move.request, move.how);
    return true;
  }

  /// The moves of a plan, each carried out, or each refused.
  std::vector<Move> plan(bool carried_out) {
    std::vector<Move> moves;
    picker_.begin(true, 1e9, true, 0);
    bool succeeded = true;
    while (const auto move = picker_.next(succeeded)) {
      moves.push_back(*move);
      succeeded = carried_out && carry_out(*move);
    }
    ++core_.step;
    return moves;
  }

  static Kinds kinds(const std::vector<Move>& moves) {
    Kinds kinds;
    for (const Move& move : moves) kinds.push_back(move.kind);
    return kinds;
  }
};

TEST_F(BatchPickerTest, ChangesNothingItself) {
  Request& request = add(1, 8);
  add(2, 4);
  // It asks once more after the room that is there was counted, and no request overtakes the one that got none.
  EXPECT_EQ(kinds(plan(false)), (Kinds{Kind::kStart, Kind::kStart, Kind::kBlock}));
  EXPECT_TRUE(picker_.batch().picks.empty());
  EXPECT_TRUE(picker_.batch().blocked);
  EXPECT_EQ(request.state(), RequestState::kWaiting);
  EXPECT_FALSE(request.has_kv());
  EXPECT_TRUE(request.decisions().empty());
  EXPECT_EQ(core_.num_free(), 6);
  EXPECT_EQ(core_.policy->order().next(nullptr, kAnyPlace), &request);
}

TEST_F(BatchPickerTest, PicksWhatItsMovesMadeReady) {
  Request& first = add(1, 8);
  Request& second = add(2, 4);
  EXPECT_EQ(kinds(plan(true)), (Kinds{Kind::kStart, Kind::kStart}));
  const Batch batch = picker_.batch();
  ASSERT_EQ(batch.picks.size(), 2u);
  EXPECT_EQ(batch.picks[0].request, &first);
  EXPECT_EQ(batch.picks[0].count, 8);
  EXPECT_EQ(batch.picks[1].request, &second);
  EXPECT_FALSE(batch.evicted || batch.blocked);
}

TEST_F(BatchPickerTest, EvictsTheLastInOrderAndAsksAgain) {
  Request& low = add(1, 12, 1);
  ASSERT_EQ(kinds(plan(true)), (Kinds{Kind::kStart}));
  mover_.commit(low, 12);
  Request& high = add(2, 12, 0);
  const std::vector<Move> moves = plan(true);
  ASSERT_EQ(kinds(moves), (Kinds{Kind::kStart, Kind::kEvict, Kind::kBlock}));  // its copy to the host is under way
  EXPECT_EQ(moves[0].request, &high);
  EXPECT_EQ(moves[1].request, &low);
  EXPECT_EQ(moves[1].how, Decision::kOffloaded);
  EXPECT_TRUE(picker_.batch().evicted);
  EXPECT_EQ(low.state(), RequestState::kOffloading);
}

}  // namespace
}  // namespace fastserve::sched
