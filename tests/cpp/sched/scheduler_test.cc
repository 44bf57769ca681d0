#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "sched/policies/policy_factory.h"
#include "scheduler_fixture.h"

namespace fastserve::sched {
namespace {

TEST_F(SchedulerTest, TimeSlicesBySkipJoinMlfq) {
  config_.policy = &policy_named("skip-join-mlfq");
  config_.max_num_seqs = 1;
  make(100);
  add(1, 4);
  add(2, 4);
  // Quanta 1, 2, 4, 8: each runs once in Q_1, twice in Q_2, four times in Q_3.
  const std::vector<Ids> expected = {{1}, {2}, {1}, {1}, {2}, {2}, {1}, {1}, {1}, {1}, {2}};
  for (const Ids& ids : expected) EXPECT_EQ(step(), ids);
  add(3, 4);  // a newcomer joins Q_1 and goes first
  EXPECT_EQ(step(), (Ids{3}));
  EXPECT_EQ(step(), (Ids{3}));
  EXPECT_EQ(step(), (Ids{3}));
  EXPECT_EQ(step(), (Ids{2}));
  EXPECT_EQ(scheduler_->stats().preemptions, 7);
}

TEST_F(SchedulerTest, FirstComeFirstServedRunsToTheEnd) {
  config_.policy = &policy_named("fcfs");
  config_.max_num_seqs = 1;
  make(100);
  add(1, 4, 3);
  add(2, 4, 2);
  for (const Ids& ids : std::vector<Ids>{{1}, {1}, {1}, {2}, {2}, {}}) EXPECT_EQ(step(), ids);
  EXPECT_EQ(scheduler_->stats().preemptions, 0);
}

TEST_F(SchedulerTest, PutsDecodesFirstAndSharesTokensBetweenTwoPrefills) {
  config_.policy = &policy_named("fcfs");
  config_.max_num_seqs = 8;
  config_.max_num_batched_tokens = 9;
  make(100);
  add(1, 2);
  EXPECT_EQ(step(), (Ids{1}));
  add(2, 20);
  add(3, 3);
  const auto made = plan();
  EXPECT_EQ(made->request_ids, (Ids{1, 2, 3}));
  EXPECT_EQ(made->num_decode_rows, 1);
  EXPECT_EQ(made->query_start, (std::vector<std::int32_t>{0, 1, 6, 9}));  // 8 left: half, what is wanted, the rest back
  EXPECT_EQ(made->sample_rows, (std::vector<std::int32_t>{0, 2}));
  commit(*made);
}

TEST_F(SchedulerTest, StartsNoRequestPastABlockedOne) {
  config_.policy = &policy_named("fcfs");
  config_.max_num_seqs = 8;
  make(10);
  add(1, 20);  // 5 blocks and one to grow
  add(2, 24);  // 6 blocks and one to grow: not beside the first
  add(3, 4);   // would fit
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_EQ(scheduler_->explain(2, now_s_).decisions.back().decision, Decision::kBlockedByMemory);
}

TEST_F(SchedulerTest, EvictsJustEnoughForTheFirstOfAHigherClassAndResumesByRecomputing) {
  config_.policy = &policy_named("skip-join-mlfq");
  config_.max_num_seqs = 3;
  make(6);
  add(1, 8);
  add(2, 8);
  EXPECT_EQ(step(), (Ids{1, 2}));  // 4 blocks held
  add(3, 8, 100, -1);              // wants 2 blocks and one to grow
  EXPECT_EQ(step(), (Ids{1, 3}));  // the decode row first
  EXPECT_EQ(scheduler_->stats().parks, 1);
  EXPECT_EQ(scheduler_->stats().recomputes_no_host, 1);
  EXPECT_EQ(scheduler_->explain(2, now_s_).state, RequestState::kWaiting);
  scheduler_->abort(3, now_s_);
  scheduler_->abort(1, now_s_);
  const auto made = plan();
  EXPECT_EQ(made->request_ids, (Ids{2}));
  EXPECT_EQ(made->num_tokens(), 8);  // the first chunk of its 8 prompt tokens and the one it had produced
  EXPECT_EQ(made->num_samples(), 0);
  commit(*made);
  EXPECT_EQ(scheduler_->request_stats(2, now_s_).recomputed_tokens, 8);
}

TEST_F(SchedulerTest, LooksEachPromptUpOnceHoweverOftenItIsPreempted) {
  config_.max_num_seqs = 4;
  make(24, 0, true);
  for (std::int64_t id : {1, 2, 3, 4}) add(id, 17, 40);  // 15 blocks each in the end, 24 in all
  while (scheduler_->num_unfinished() > 0) step();
  EXPECT_GT(scheduler_->stats().recomputes, 2);
  EXPECT_EQ(scheduler_->stats().prefix_cache_queries, 4 * 17);
  EXPECT_EQ(scheduler_->stats().prefix_cache_hits, 0);
  add(1, 17, 1);  // again: its full blocks are known, unless they were recycled
  while (scheduler_->num_unfinished() > 0) step();
  EXPECT_EQ(scheduler_->stats().prefix_cache_queries, 5 * 17);
  EXPECT_EQ(scheduler_->stats().prefix_cache_hits, scheduler_->take_events().num_cached_tokens.back());
}

TEST_F(SchedulerTest, LooksNothingUpForARequestThatNeverRuns) {
  config_.policy = &policy_named("fcfs");
  make(6, 0, true);
  add(1, 16, 8);
  add(2, 16, 8);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(), Ids{1});  // no room for 2, which is tried each time
  EXPECT_EQ(scheduler_->stats().prefix_cache_queries, 16);
  scheduler_->abort(2, now_s_);
  while (scheduler_->num_unfinished() > 0) step();
  EXPECT_EQ(scheduler_->stats().prefix_cache_queries, 16);
}

TEST_F(SchedulerTest, LooksNothingUpWithoutAPrefixCache) {
  make(6);
  add(1, 16, 8);
  step();
  EXPECT_EQ(scheduler_->stats().prefix_cache_queries, 0);
}

TEST_F(SchedulerTest, CountsAsRecomputedWhatIterationsTookInAgain) {
  config_.max_num_seqs = 4;
  config_.max_num_batched_tokens = 8;
  make(24);
  for (std::int64_t id : {1, 2, 3, 4}) add(id, 17, 40);
  std::set<std::pair<std::int64_t, std::int32_t>> seen;
  std::int64_t again = 0;
  for (int i = 0; i < 150; ++i) {  // some are in the middle of a recomputation in the end, or were dropped in one
    const auto made = plan();
    for (std::size_t row = 0; row < made->request_ids.size(); ++row)
      for (std::int32_t token = made->query_start[row]; token < made->query_start[row + 1]; ++token)
        again += !seen.emplace(made->request_ids[row], made->positions[static_cast<std::size_t>(token)]).second;
    commit(*made);
    ASSERT_EQ(scheduler_->stats().recomputed_tokens, again) << "after iteration " << i;
  }
  EXPECT_GT(again, 50);
  std::int64_t of_requests = 0;
  for (std::int64_t id : {1, 2, 3, 4}) of_requests += scheduler_->request_stats(id, now_s_).recomputed_tokens;
  EXPECT_EQ(of_requests, again);
}

TEST_F(SchedulerTest, TakesTheMemoryOfALongStreamForAShortRequestWhereThatPays) {
  config_.policy = &policy_named("skip-join-mlfq");
  make(8, 100);
  add(1, 8, 40);
  add(2, 8, 40);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(step(), (Ids{1, 2}));  // both in Q_3: taken to need 4 s more
  add(3, 8, 1);                                                // Q_1: 1 s; wants 2 blocks and one to grow, 2 are free
  step();                                                      // the last of the two is left out, its KV leaves
  EXPECT_EQ(scheduler_->stats().swaps, 1);
  const Ids ids = step();
  EXPECT_EQ(std::set<std::int64_t>(ids.begin(), ids.end()), (std::set<std::int64_t>{1, 3}));
}

TEST_F(SchedulerTest, WaitsForMemoryWhereEvictingCostsMoreThanItSaves) {
  latency_ = LatencyModel(LatencyModel::Coefficients{1, 1, 0, 0, 0});  // a second to compute a token again
  config_.policy = &policy_named("skip-join-mlfq");
  make(8);  // no host
  add(1, 8, 40);
  add(2, 8, 40);
  for (int i = 0; i < 4; ++i) step();
  add(3, 2, 1);
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(scheduler_->stats().parks, 0);
}

TEST_F(SchedulerTest, TakesNoMemoryFromAStreamThatIsPredictedAsShort) {
  config_.policy = &policy_named("skip-join-mlfq");
  config_.max_num_seqs = 2;
  make(6, 100);
  add(1, 8, 4);
  add(2, 8, 4);
  EXPECT_EQ(step(), (Ids{1, 2}));  // both fall to Q_2, 4 blocks held
  add(3, 8);                       // Q_1: wants 2 blocks and one to grow
  EXPECT_EQ(step(), (Ids{1, 2}));
  EXPECT_EQ(scheduler_->explain(3, now_s_).decisions.back().decision, Decision::kBlockedByMemory);
  EXPECT_EQ(scheduler_->stats().parks, 0);
  for (int i = 0; i < 40 && scheduler_->explain(3, now_s_).output_tokens == 0; ++i) step();
  EXPECT_GT(scheduler_->explain(3, now_s_).output_tokens, 0);
}

TEST_F(SchedulerTest, StartsNoMoreStreamsThanCanHaveTheirTurnWithinTheLongestPause) {
  config_.policy = &policy_named("learned");
  config_.max_num_seqs = 2;
  config_.starvation_limit_s = 0.05;
  config_.max_pause_s = 0.35;  // three turns of 0.05 s, each with an iteration after it, on the one seat
  make(100);
  add(10, 4, 1);
  for (int i = 0; i < 3; ++i) step();  // a length is known: order of arrival ends
  for (int i = 0; i < 8; ++i) add(i, 4);
  add(8, 4, 100, 1);
  for (int i = 0; i < 20; ++i) step();
  const auto begun = [&](std::int64_t id) { return scheduler_->explain(id, now_s_).output_tokens > 0; };
  EXPECT_TRUE(begun(0) && begun(4));
  EXPECT_FALSE(begun(5) || begun(6) || begun(7) || begun(8));
  add(9, 4, 100, -1);  // classes are strict
  step();
  EXPECT_TRUE(begun(9));
}

TEST_F(SchedulerTest, SwapsToTheHostAndBackWithItsStatesOnTheWay) {
  config_.policy = &policy_named("skip-join-mlfq");
  config_.max_num_seqs = 1;
  config_.preemption_mode = PreemptionMode::kSwap;
  make(4, 8);
  add(1, 8);
  EXPECT_EQ(step(), (Ids{1}));
  add(2, 12, 100, -1);  // every block
  auto made = plan();   // request 1 goes; its blocks come free with the copy
  EXPECT_EQ(made->num_rows(), 0);
  EXPECT_EQ(made->transfer_to_host, (std::vector<std::uint8_t>{1}));
  EXPECT_EQ(made->transfer_sources.size(), 2u);
  EXPECT_EQ(scheduler_->explain(1, now_s_).state, RequestState::kOffloading);
  commit(*made, 0.0);
  const auto waiting = plan();  // nothing may use the blocks meanwhile
  EXPECT_EQ(waiting->num_rows() + waiting->num_transfers(), 0);
  commit(*waiting, 0.0);
  complete(*made);
  EXPECT_EQ(scheduler_->explain(1, now_s_).state, RequestState::kParked);
  EXPECT_EQ(step(), (Ids{2}));
  scheduler_->abort(2, now_s_);
  made = plan();
  EXPECT_EQ(made->transfer_to_host, (std::vector<std::uint8_t>{0}));
  EXPECT_EQ(scheduler_->explain(1, now_s_).state, RequestState::kUploading);
  commit(*made, 0.0);
  complete(*made);
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_EQ(scheduler_->stats().uploads_late, 1);
  EXPECT_EQ(scheduler_->stats().recomputes, 0);
}

TEST_F(SchedulerTest, LinksTheSecondPlanToTheSamplesOfTheFirst) {
  make(100);
  add(1, 4, 3);
  add(2, 8, 100);
  const auto first = plan();
  const auto second = plan();
  EXPECT_EQ(second->request_ids, first->request_ids);
  EXPECT_EQ(second->token_ids, (std::vector<std::int32_t>{-1, -1}));
  EXPECT_EQ(second->token_sources, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(second->seq_lens, (std::vector<std::int32_t>{5, 9}));
  EXPECT_THROW(scheduler_->schedule(now_s_), InvalidArgumentError);
  commit(*first);
  const auto third = plan();
  EXPECT_EQ(third->request_ids, second->request_ids);
  commit(*second);
  const auto fourth = plan();  // request 1 gets its third and last token from the third plan
  EXPECT_EQ(fourth->request_ids, (Ids{2}));
  commit(*third);
  const auto events = scheduler_->take_events();
  EXPECT_EQ(events.finish_reasons, (std::vector<std::uint8_t>{0, 0, 0, 0, 2, 0}));
  commit(*fourth);
}

TEST_F(SchedulerTest, HoldsTheBlocksOfAnAbortedRequestUntilItsLastPlanIsCommitted) {
  make(100);
  add(1, 4);
  const auto first = plan();
  const auto second = plan();
  EXPECT_TRUE(scheduler_->abort(1, now_s_));
  EXPECT_TRUE(scheduler_->take_events().request_ids.empty());
  commit(*first);
  const auto events = scheduler_->take_events();
  EXPECT_EQ(events.request_ids, (Ids{1}));
  EXPECT_EQ(events.finish_reasons, (std::vector<std::uint8_t>{static_cast<std::uint8_t>(FinishReason::kAbort)}));
  EXPECT_EQ(events.token_ids, (std::vector<std::int32_t>{-1}));
  EXPECT_GT(kv_->usage(kv::Tier::kDevice).used, 0);
  EXPECT_FALSE(scheduler_->abort(1, now_s_));
  commit(*second);
  EXPECT_EQ(kv_->usage(kv::Tier::kDevice).used, 0);
}

TEST_F(SchedulerTest, EndsAtTheDeadlineWithoutALengthReason) {
  make(100);
  const std::vector<std::int32_t> prompt = {1, 2};
  RequestOptions options;
  options.deadline_s = 1.5;
  scheduler_->add(1, prompt, options, 0.0);
  step();
  const auto made = plan();
  commit(*made);
  const auto events = scheduler_->take_events();
  EXPECT_EQ(events.finish_reasons.back(), static_cast<std::uint8_t>(FinishReason::kDeadline));
  EXPECT_FALSE(scheduler_->has_unfinished());
}

TEST_F(SchedulerTest, KeepsAHeldRequestOnTheHostUntilItIsReleased) {
  make(10, 10);
  add(1, 8);
  step();
  EXPECT_TRUE(scheduler_->park(1, true, now_s_));
  EXPECT_TRUE(scheduler_->park(1, true, now_s_));
  step();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(), Ids{});
  EXPECT_EQ(scheduler_->explain(1, now_s_).residency, kv::Residency::kHost);
  EXPECT_EQ(scheduler_->stats().num_held, 1);
  EXPECT_TRUE(scheduler_->unpark(1, now_s_));
  step();
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_FALSE(scheduler_->park(99, true, now_s_));
}

TEST_F(SchedulerTest, ComputesAgainWhatCouldNotBeCopied) {
  config_.preemption_mode = PreemptionMode::kSwap;
  make(10, 10);
  add(1, 8);
  step();
  scheduler_->park(1, true, now_s_);
  auto made = plan();
  commit(*made, 0.0);
  complete(*made, /*ok=*/false);
  step();
  EXPECT_EQ(scheduler_->explain(1, now_s_).residency, kv::Residency::kNone);
  EXPECT_EQ(scheduler_->stats().recomputes_copy_failed, 1);
  EXPECT_EQ(scheduler_->stats().failed_transfers, 1);
}

TEST_F(SchedulerTest, StartsNoRequestIntoTheLastFreeBlocksWhileTheDropBudgetIsOverdrawn) {
  latency_ = LatencyModel(LatencyModel::Coefficients{1, 1, 0, 0, 0});  // 2 s to compute two tokens again
  config_.policy = &policy_named("fcfs");
  config_.max_num_batched_tokens = config_.max_prefill_chunk_tokens = config_.max_model_len = 400;
  make(80);
  add(1, 304, 5);
  step();
  add(2, 2);
  EXPECT_EQ(step(), (Ids{1, 2}));
  scheduler_->park(2, true, now_s_);  // no host: dropped
  EXPECT_EQ(step(), (Ids{1}));
  scheduler_->unpark(2, now_s_);
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_EQ(kv_->usage(kv::Tier::kDevice).free, 3);  // room to start, but less than a twentieth
  EXPECT_EQ(step(), (Ids{1}));                       // its last one
  EXPECT_EQ(step(), (Ids{2}));
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  make(3);
  EXPECT_THROW(add(1, 0), InvalidArgumentError);
  EXPECT_THROW(add(1, 64), InvalidArgumentError);
  EXPECT_THROW(add(1, 13), InvalidArgumentError);
  add(1, 12);
  EXPECT_THROW(add(1, 4), InvalidArgumentError);
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_EQ(step(), (Ids{1}));
  EXPECT_FALSE(scheduler_->has_unfinished());  // the pool is full: ends by length
}

TEST_F(SchedulerTest, FailsAStepWithoutHurtingTheRest) {
  make(100);
  add(1, 4);
  const auto first = plan();
  add(2, 4);
  const auto second = plan();
  scheduler_->fail_step(first->step, now_s_);
  scheduler_->check_integrity();
  commit(*second);
  EXPECT_EQ(scheduler_->num_unfinished(), 1);
  EXPECT_EQ(step(), (Ids{2}));
}

TEST(LatencyModel, FindsTheCoefficientsItsSamplesWereMadeWith) {
  const LatencyModel truth({2e-3, 1e-5, 2e-9, 3e-5, 4e-9});
  std::vector<LatencyModel::Sample> samples;
  for (const double n : {1.0, 16.0, 128.0, 1024.0})
    for (const double ctx : {0.0, 64.0, 512.0}) {
      samples.push_back({n, prefill_pairs(n, ctx), 0, 0, truth.prefill_s(n, ctx)});
      samples.push_back({0, 0, n, n * ctx, truth.decode_s(n, n * ctx)});
    }
  LatencyModel fitted;
  fitted.fit(samples);
  for (int i = 0; i < LatencyModel::kNumCoefficients; ++i)
    EXPECT_NEAR(fitted.coefficients()[i] / truth.coefficients()[i], 1.0, 1e-5);
}

TEST(LatencyModel, GivesNoNegativeCoefficients) {
  // Larger prefills that are faster: the slope would be negative.
  const std::vector<LatencyModel::Sample> samples = {
      {1, 1, 0, 0, 3}, {2, 3, 0, 0, 2}, {3, 6, 0, 0, 1}, {0, 0, 1, 1, 1}};
  LatencyModel fitted;
  fitted.fit(samples);
  for (const double value : fitted.coefficients()) EXPECT_GE(value, 0.0);
}

TEST(LatencyModel, FollowsTheMachineWithinBounds) {
  LatencyModel model;
  const double before_s = model.decode_s(8, 100);
  for (int i = 0; i < 1000; ++i) model.observe({.num_decodes = 8, .decode_ctx = 100}, 1.5 * before_s);
  EXPECT_NEAR(model.decode_s(8, 100), 1.5 * before_s, 1e-2 * before_s);
  for (int i = 0; i < 1000; ++i) model.observe({.num_decodes = 8, .decode_ctx = 100}, 1e6);
  EXPECT_NEAR(model.correction(), 4.0, 1e-6);
  model.observe({.num_decodes = 8}, std::numeric_limits<double>::quiet_NaN());
  EXPECT_NEAR(model.correction(), 4.0, 1e-6);
}

}  // namespace
}  // namespace fastserve::sched
