#include "sched/policies/slo_policy.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <vector>

#include "../request_peer.h"

namespace fastserve::sched {
namespace {

using Ids = std::vector<std::int64_t>;

/// An iteration takes 10 ms; objectives of 1 s to the first output and 50 ms per output; two slots.
class SloPolicyTest : public ::testing::Test {
 protected:
  static constexpr double kIterationS = 0.01;
  LatencyModel latency_{{kIterationS, 0.0, 0.0, 0.0, 0.0}};
  MlfqConfig mlfq_{.quanta_s = {0.01, 0.02, 0.04}, .starvation_limit_s = 30.0, .max_pause_s = 1.0, .batch_slots = 2};
  SchedulerConfig objectives_{.ttft_slo_s = 1.0, .tpot_slo_s = 0.05};
  std::unique_ptr<SloPolicy> policy_ = std::make_unique<SloPolicy>(mlfq_, objectives_, latency_);
  std::deque<Request> requests_;
  double now_s_ = 0.0;

  Request& join(RequestOptions options = {}) {
    options.max_tokens = 1000;
    const std::vector<std::int32_t> prompt(4, 1);
    const RequestIdentity identity{
        .id = std::ssize(requests_), .serial = std::ssize(requests_), .max_total = 1004, .arrival_s = now_s_};
    Request& request = requests_.emplace_back(identity, prompt, options);
    policy_->join(request, now_s_, kIterationS);
    return request;
  }

  void start(Request& request) {
    RequestPeer::count_as_started(request, true);
    policy_->follow(request, Policy::Event::kCounted, now_s_);
  }

  /// `tokens` iterations, an output each.
  void run(Request& request, int tokens) {
    if (!request.counts_as_started()) start(request);
    policy_->follow(request, Policy::Event::kRuns, now_s_);
    for (int i = 0; i < tokens; ++i) {
      now_s_ += kIterationS;
      RequestPeer::add_output(request, now_s_);
      RequestPeer::compute_all_but_last(request);
      policy_->charge(request, 10'000'000, kIterationS);
      policy_->promote_starving(now_s_);
    }
    policy_->follow(request, Policy::Event::kRests, now_s_);
    policy_->order().check_integrity();
  }

  void wait(double seconds) { policy_->promote_starving(now_s_ += seconds); }

  Ids order() const {
    Ids ids;
    for (const Request* r = policy_->order().next(nullptr, kAnyPlace); r; r = policy_->order().next(r, kAnyPlace))
      ids.push_back(r->id);
    return ids;
  }
};

TEST_F(SloPolicyTest, LetsAStreamThatIsAheadStandBehindNewRequestsUntilItsSlackRunsOut) {
  Request& stream = join();
  run(stream, 10);  // 0.1 s for what is due in half a second
  Request& fresh = join();
  EXPECT_EQ(order(), (Ids{fresh.id, stream.id}));
  wait(0.1);
  EXPECT_EQ(order(), (Ids{fresh.id, stream.id}));
  wait(0.31);  // due at 0.51 + 0.01, three iterations before that it has to run
  EXPECT_EQ(order(), (Ids{stream.id, fresh.id}));
  run(stream, 1);
  EXPECT_EQ(order(), (Ids{stream.id, fresh.id}));  // not far enough ahead
  run(stream, 2);
  EXPECT_EQ(order(), (Ids{fresh.id, stream.id}));
}

TEST_F(SloPolicyTest, PutsARequestThatCanNoLongerMeetItsObjectiveBehindThoseThatCan) {
  Request& late = join();
  wait(0.9);
  Request& fresh = join();
  EXPECT_EQ(order(), (Ids{late.id, fresh.id}));
  wait(0.2);
  EXPECT_EQ(order(), (Ids{fresh.id, late.id}));
  run(late, 20);
  EXPECT_EQ(order(), (Ids{fresh.id, late.id}));  // however fast it goes on
}

TEST_F(SloPolicyTest, StartsOnlyWhatTheSlotsCanFeed) {
  // A stream takes 10 of every 50 ms: two slots feed ten of them, 95 % of two slots nine.
  for (int i = 0; i < 9; ++i) {
    Request& request = join();
    ASSERT_TRUE(policy_->may_start(request)) << i;
    start(request);
  }
  EXPECT_FALSE(policy_->may_start(join()));
  Request& first = requests_.front();
  RequestPeer::finish(first, FinishReason::kStop);
  policy_->leave(first);
  RequestPeer::count_as_started(first, false);
  policy_->follow(first, Policy::Event::kCounted, now_s_);
  EXPECT_TRUE(policy_->may_start(join()));
}

TEST_F(SloPolicyTest, GoesByTheObjectivesOfTheRequestWhereItBringsAny) {
  RequestOptions patient;
  patient.ttft_slo_s = 10.0;
  Request& late = join(patient);
  wait(2.0);
  EXPECT_EQ(late.queue().level, join().queue().level);
  wait(9.0);
  EXPECT_GT(late.queue().level, join().queue().level);
}

TEST_F(SloPolicyTest, ServesRequestsWithoutObjectivesInTheOrderOfTheIndex) {
  policy_ = std::make_unique<SloPolicy>(mlfq_, SchedulerConfig{}, latency_);
  Request& plain = join();
  RequestOptions options;
  options.ttft_slo_s = 1.0;
  Request& urgent = join(options);
  EXPECT_EQ(order(), (Ids{urgent.id, plain.id}));
}

}  // namespace
}  // namespace fastserve::sched
