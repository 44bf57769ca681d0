#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/error.h"
#include "sched/policies/policy_factory.h"
#include "scheduler_fixture.h"

namespace fastserve::sched {
namespace {

/// Two stages, two slots each.
class StagesTest : public SchedulerTest {
 protected:
  void make_stages(std::int32_t device_blocks, std::int32_t host_blocks = 0) {
    config_.policy = &policy_named("priority");
    config_.num_stages = 2;
    config_.max_num_seqs = 4;
    make(device_blocks, host_blocks);
  }
};

TEST_F(StagesTest, HaveAPlanEachWithoutARequestInCommon) {
  make_stages(100);
  for (const std::int64_t id : {1, 2, 3, 4, 5}) add(id, 4);
  const auto first = plan(), second = plan();
  EXPECT_EQ(first->request_ids, (Ids{1, 2}));
  EXPECT_EQ(second->request_ids, (Ids{3, 4}));
  EXPECT_THROW(plan(), InvalidArgumentError);
  EXPECT_EQ(scheduler_->stats().num_running, 4);
  commit(*first);
  EXPECT_EQ(scheduler_->stats().num_running, 4);  // the batch is that of both stages
  const auto third = plan();
  EXPECT_EQ(third->request_ids, (Ids{1, 2}));
  EXPECT_EQ(third->token_ids, (std::vector<std::int32_t>{7, 7}));  // known: the last stage has sampled them
  EXPECT_EQ(third->token_sources, (std::vector<std::int32_t>{-1, -1}));
  EXPECT_EQ(scheduler_->stats().preemptions, 0);
}

TEST_F(StagesTest, ShareTheRequestsThatThereAreAndTheTokensOfAnIteration) {
  make_stages(100);
  config_.max_num_seqs = 16;
  config_.max_num_batched_tokens = 17;
  config_.max_prefill_chunk_tokens = 16;
  make(100);
  add(1, 4);
  add(2, 5);
  add(3, 4);
  const auto first = plan();
  EXPECT_EQ(first->request_ids, (Ids{1, 2}));
  EXPECT_EQ(first->num_tokens(), 9);
  EXPECT_EQ(plan()->request_ids, (Ids{3}));
}

TEST_F(StagesTest, NeverHaveMoreRequestsThanSlots) {
  make_stages(100);
  config_.max_num_seqs = 1;
  make(100);
  add(1, 4);
  add(2, 4);
  const auto first = plan(), second = plan();
  EXPECT_EQ(first->request_ids, (Ids{1}));
  EXPECT_EQ(second->num_rows(), 0);
  commit(*second);  // nothing runs in it, so nothing waits for it
  EXPECT_THROW(scheduler_->commit(second->step, {}, 0.0, now_s_), InvalidArgumentError);
  commit(*first);
  EXPECT_EQ(plan()->request_ids, (Ids{1}));
}

TEST_F(StagesTest, PreemptARequestThatNoneOfThemTakes) {
  make_stages(100);
  config_.max_num_seqs = 2;
  make(100);
  add(1, 4);
  add(2, 4);
  const auto first = plan(), second = plan();
  add(3, 4, 100, -1);
  commit(*first);
  const auto third = plan();
  EXPECT_EQ(third->request_ids, (Ids{3}));
  commit(*second);
  const auto fourth = plan();
  EXPECT_EQ(fourth->request_ids, (Ids{1}));  // a stage later than before, which is no preemption
  EXPECT_EQ(scheduler_->stats().preemptions, 0);
  commit(*third);
  const auto fifth = plan();
  EXPECT_EQ(fifth->request_ids, (Ids{3}));
  EXPECT_EQ(scheduler_->stats().preemptions, 1);
  EXPECT_EQ(scheduler_->request_stats(2, now_s_).preemptions, 1);
  scheduler_->abort(2, now_s_);
  commit(*fourth);
  commit(*fifth);
}

TEST_F(StagesTest, KeepTheBlocksOfAnAbortedRequestUntilItsPlanIsCommitted) {
  make_stages(100);
  for (const std::int64_t id : {1, 2, 3, 4}) add(id, 4);
  const auto first = plan(), second = plan();
  scheduler_->abort(3, now_s_);
  commit(*first);
  const std::int32_t held = kv_->usage(kv::Tier::kDevice).used;
  const auto third = plan();
  EXPECT_EQ(kv_->usage(kv::Tier::kDevice).used, held + 2);  // what requests 1 and 2 grew by
  commit(*second);
  EXPECT_EQ(kv_->usage(kv::Tier::kDevice).used, held + 1);
  EXPECT_EQ(plan()->request_ids, (Ids{4}));
}

TEST_F(StagesTest, ParkARequestOnceItsPlanIsCommitted) {
  make_stages(100, 100);
  for (const std::int64_t id : {1, 2, 3, 4}) add(id, 4);
  const auto first = plan(), second = plan();
  scheduler_->park(3, true, now_s_);
  commit(*first);
  const auto third = plan();
  EXPECT_EQ(third->num_transfers(), 0);
  commit(*second);
  const auto fourth = plan();
  EXPECT_EQ(fourth->request_ids, (Ids{4}));
  EXPECT_EQ(fourth->num_transfers(), 1);
  EXPECT_EQ(scheduler_->explain(3, now_s_).state, RequestState::kOffloading);
}

TEST_F(StagesTest, ReadAPromptInConsecutiveChunks) {
  make_stages(100);
  add(1, 18);
  const auto first = plan(), second = plan();
  EXPECT_EQ(first->seq_lens, (std::vector<std::int32_t>{8}));
  EXPECT_EQ(second->seq_lens, (std::vector<std::int32_t>{16}));
  commit(*first);
  EXPECT_EQ(scheduler_->stats().num_running, 1);
  const auto third = plan();
  EXPECT_EQ(third->seq_lens, (std::vector<std::int32_t>{18}));
  EXPECT_EQ(third->num_samples(), 1);
  commit(*second);
  const auto none = plan();
  EXPECT_EQ(none->num_rows(), 0);  // the next token is not known
  commit(*none);
  commit(*third);
  EXPECT_EQ(plan()->token_ids, (std::vector<std::int32_t>{7}));
  EXPECT_EQ(scheduler_->stats().preemptions, 0);
}

TEST_F(StagesTest, HoldTheBlocksOfAPromptWhoseChunkFailedUntilTheNextOneIsCommitted) {
  make_stages(100);
  add(1, 18);
  const auto first = plan(), second = plan();
  scheduler_->fail_step(first->step, now_s_);
  scheduler_->check_integrity();
  EXPECT_GT(kv_->usage(kv::Tier::kDevice).used, 0);
  commit(*second);
  EXPECT_EQ(kv_->usage(kv::Tier::kDevice).used, 0);
}

TEST_F(StagesTest, FailTheRequestsOfOnePlanAlone) {
  make_stages(100);
  for (const std::int64_t id : {1, 2, 3, 4}) add(id, 4);
  const auto first = plan(), second = plan();
  scheduler_->fail_step(first->step, now_s_);
  scheduler_->check_integrity();
  EXPECT_EQ(scheduler_->take_events().request_ids, (Ids{1, 2}));
  EXPECT_EQ(plan()->num_rows(), 0);
  commit(*second);
  EXPECT_EQ(plan()->request_ids.size(), 1u);
}

TEST_F(StagesTest, AreChargedForTheTimeOfTheirOwnPlan) {
  make_stages(100);
  for (const std::int64_t id : {1, 2, 3, 4}) add(id, 4);
  const auto first = plan(), second = plan();
  scheduler_->commit(first->step, std::vector<std::int32_t>{7, 7}, 1.0, 1.0);
  scheduler_->commit(second->step, std::vector<std::int32_t>{7, 7}, 1.0, 1.5);  // half of it beside the first
  EXPECT_DOUBLE_EQ(scheduler_->explain(1, 1.5).attained_s, 1.0);
  EXPECT_DOUBLE_EQ(scheduler_->explain(3, 1.5).attained_s, 1.0);
}

}  // namespace
}  // namespace fastserve::sched
