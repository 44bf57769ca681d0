#include "sched/policies/learned_policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "../request_peer.h"
#include "base/error.h"

namespace fastserve::sched {
namespace {

using Ids = std::vector<std::int64_t>;

/// One token is one second of decoding and one second of prefill; starving after 1000 s.
class LearnedPolicyTest : public ::testing::Test {
 protected:
  LatencyModel latency_{{0.0, 1.0, 0.0, 1.0, 0.0}};
  MlfqConfig mlfq_{.quanta_s = {1, 2, 4, 8}, .starvation_limit_s = 1000.0, .batch_slots = 2};
  SchedulerConfig config_{.length_half_life = 1e9};
  std::unique_ptr<LearnedPolicy> policy_ = std::make_unique<LearnedPolicy>(mlfq_, config_, latency_);
  std::deque<Request> requests_;

  Request& join(std::int32_t prompt_tokens, std::uint64_t length_class = 0, double now_s = 0.0,
                std::int32_t max_tokens = 100'000, bool ignore_eos = false) {
    RequestOptions options;
    options.ignore_eos = ignore_eos;
    options.max_tokens = max_tokens;
    options.length_class = length_class;
    const std::vector<std::int32_t> prompt(static_cast<std::size_t>(prompt_tokens), 1);
    const RequestIdentity identity{.id = std::ssize(requests_),
                                   .serial = std::ssize(requests_),
                                   .max_total = prompt_tokens + max_tokens,
                                   .arrival_s = now_s};
    Request& request = requests_.emplace_back(identity, prompt, options);
    policy_->join(request, now_s, latency_.prefill_s(prompt_tokens, 0));
    return request;
  }

  /// `tokens` iterations of one second, an output each.
  void run(Request& request, std::int32_t tokens, double now_s = 0.0) {
    policy_->follow(request, Policy::Event::kRuns, now_s);
    for (std::int32_t i = 0; i < tokens; ++i) {
      RequestPeer::add_output(request);
      RequestPeer::compute_all_but_last(request);
      policy_->charge(request, 1'000'000'000, 1.0);
    }
    policy_->follow(request, Policy::Event::kRests, now_s);
    policy_->order().check_integrity();
  }

  void end(Request& request, FinishReason reason = FinishReason::kStop) {
    RequestPeer::finish(request, reason);
    policy_->leave(request);
  }

  /// Requests of the class that ended after so many tokens.
  void teach(const std::vector<std::int32_t>& lengths, std::uint64_t length_class = 0, std::int32_t prompt_tokens = 1) {
    for (const std::int32_t tokens : lengths) {
      Request& request = join(prompt_tokens, length_class);
      run(request, tokens);
      end(request);
    }
  }

  Ids order() const {
    Ids ids;
    for (const Request* r = policy_->order().next(nullptr, kAnyPlace); r; r = policy_->order().next(r, kAnyPlace))
      ids.push_back(r->id);
    return ids;
  }
};

TEST_F(LearnedPolicyTest, IsFirstComeFirstServedBeforeTheFirstEnd) {
  mlfq_.starvation_limit_s = 10.0;
  policy_ = std::make_unique<LearnedPolicy>(mlfq_, config_, latency_);
  Request& a = join(90);
  join(1, 7);
  run(a, 100, 5.0);
  EXPECT_EQ(policy_->promote_starving(1000.0), 0);
  EXPECT_EQ(order(), (Ids{0, 1}));
  EXPECT_EQ(a.queue().level, 0);
  EXPECT_EQ(policy_->enst_s(requests_[1], 1000.0), std::numeric_limits<double>::infinity());
}

TEST_F(LearnedPolicyTest, PutsThoseThatWaitWhereTheyBelongOnceSomethingIsKnown) {
  Request& slow = join(400);
  Request& quick = join(1);
  Request& held = join(1);
  policy_->leave(held);
  EXPECT_EQ(order(), (Ids{slow.id, quick.id}));
  teach({4});
  policy_->promote_starving(0.0);  // as before each plan
  EXPECT_EQ(order(), (Ids{quick.id, slow.id}));
  policy_->join(held, 1.0, std::nullopt);
  policy_->order().check_integrity();
}

TEST_F(LearnedPolicyTest, JoinsByTheIndexOfTheClassAndThePrefill) {
  teach(std::vector<std::int32_t>(64, 4));
  // Nearly certain to be 4 long: G = (prompt + 4) * 4 / 1.25.
  EXPECT_EQ(join(2).queue().level, 4);     // 19
  EXPECT_EQ(join(20).queue().level, 6);    // 77
  EXPECT_EQ(join(380).queue().level, 10);  // 1229
}

TEST_F(LearnedPolicyTest, RunsShortClassesBeforeLongOnes) {
  teach(std::vector<std::int32_t>(64, 2), 1);
  teach(std::vector<std::int32_t>(64, 200), 2);
  const std::int64_t slow = join(4, 2).id;
  const std::int64_t quick = join(4, 1).id;
  EXPECT_EQ(order(), (Ids{quick, slow}));
}

TEST_F(LearnedPolicyTest, RunsPromptsThatHaveShortAnswersBeforeShorterPromptsThatHaveLongOnes) {
  teach(std::vector<std::int32_t>(512, 4), 0, 100);
  teach(std::vector<std::int32_t>(512, 400), 0, 8);
  const std::int64_t slow = join(8).id;
  const std::int64_t quick = join(100).id;
  EXPECT_EQ(order(), (Ids{quick, slow}));
}

TEST_F(LearnedPolicyTest, ChangesTheLevelWhereTheIndexDoes) {
  std::vector<std::int32_t> lengths(64, 4);
  lengths.insert(lengths.end(), 64, 300);
  teach(lengths);
  Request& request = join(1);
  const std::int32_t first = request.queue().level;
  run(request, 3);
  EXPECT_LE(request.queue().level, first);  // the prefill is done
  run(request, 97);                         // it is one of the long ones
  const std::int32_t second = request.queue().level;
  EXPECT_GE(second, first + 5);
  run(request, 195);
  EXPECT_LT(policy_->index_s(request), std::exp2(second));  // nearly done
  EXPECT_LT(request.queue().level, second);
}

TEST_F(LearnedPolicyTest, KnowsThatMaxTokensEndsARequest) {
  teach(std::vector<std::int32_t>(64, 300));
  EXPECT_LT(join(1, 0, 0.0, 4).queue().level, join(1).queue().level);
}

TEST_F(LearnedPolicyTest, CountsAnAbortAsALowerBound) {
  teach({4, 4, 4, 4});
  for (int i = 0; i < 4; ++i) {
    Request& request = join(1);
    run(request, 2);
    end(request, FinishReason::kAbort);
  }
  for (int i = 0; i < 4; ++i) {
    Request& request = join(1);
    run(request, 9);
    end(request, FinishReason::kLength);
  }
  const auto classes = policy_->length_classes();
  ASSERT_EQ(classes.size(), 1u);
  EXPECT_EQ(classes[0].num_observations, 8);  // the limits, but not the aborts
}

TEST_F(LearnedPolicyTest, LearnsTheAnswerAndNotWhatCameAfterItsStopString) {
  for (int i = 0; i < 64; ++i) {
    Request& request = join(1);
    run(request, 16);
    RequestPeer::cut_answer(request, 13);
    end(request);
  }
  policy_->promote_starving(0.0);
  EXPECT_NEAR(policy_->length_classes()[0].quantiles[3], 13.0, 1.0);
}

TEST_F(LearnedPolicyTest, GivesAFreshClassTheLevelOfTheOthers) {
  teach(std::vector<std::int32_t>(64, 40));
  EXPECT_EQ(join(8, 99).queue().level, join(8).queue().level);
}

TEST_F(LearnedPolicyTest, TakesTheLimitOfARequestThatIgnoresTheEndAsItsLength) {
  Request& request = join(1, 0, 0.0, 100'000, true);
  run(request, 9);
  end(request, FinishReason::kLength);
  EXPECT_EQ(policy_->length_classes()[0].num_observations, 1);
}

TEST_F(LearnedPolicyTest, LearnsAChangeOfTrafficWithin500Ends) {
  config_.length_half_life = 128.0;
  policy_ = std::make_unique<LearnedPolicy>(mlfq_, config_, latency_);
  teach(std::vector<std::int32_t>(500, 468));
  EXPECT_NEAR(policy_->length_classes()[0].quantiles[3], 468.0, 32.0);
  teach(std::vector<std::int32_t>(500, 13));
  const LengthClassView view = policy_->length_classes()[0];
  EXPECT_NEAR(view.quantiles[3], 13.0, 1.0);
  EXPECT_NEAR(view.quantiles[5], 13.0, 1.0);  // 90 %
}

TEST_F(LearnedPolicyTest, ReturnsThePromotedToTheLevelOfTheirIndex) {
  mlfq_.starvation_limit_s = 10.0;
  policy_ = std::make_unique<LearnedPolicy>(mlfq_, config_, latency_);
  teach({4});
  Request& a = join(400, 0, 0.0);
  Request& b = join(30, 0, 1.0);
  Request& c = join(1, 0, 100.0);
  EXPECT_EQ(order(), (Ids{c.id, b.id, a.id}));
  EXPECT_EQ(policy_->promote_starving(100.0), 1);
  EXPECT_EQ(policy_->promote_starving(100.0), 0);
  EXPECT_EQ(order(), (Ids{a.id, c.id, b.id}));
  run(a, 1, 100.0);  // its prefill, with a second of iterations
  EXPECT_FALSE(a.queue().starving);
  EXPECT_LT(a.queue().level, b.queue().level);  // nothing but tokens to do
  EXPECT_EQ(policy_->promote_starving(100.0), 1);
  EXPECT_TRUE(b.queue().starving);
}

TEST_F(LearnedPolicyTest, ExplainsTheLevelsOfAClass) {
  EXPECT_TRUE(policy_->length_classes().empty());
  std::vector<std::int32_t> lengths(64, 4);
  lengths.insert(lengths.end(), 64, 300);
  teach(lengths, 5);
  const auto classes = policy_->length_classes();
  ASSERT_EQ(classes.size(), 1u);
  EXPECT_EQ(classes[0].key, 5u);
  EXPECT_TRUE(classes[0].learned);
  EXPECT_EQ(classes[0].num_observations, 128);
  EXPECT_NEAR(classes[0].quantiles[1], 4.0, 1.0);
  EXPECT_NEAR(classes[0].quantiles[5], 300.0, 32.0);
  ASSERT_GE(classes[0].levels.size(), 2u);
  EXPECT_EQ(classes[0].levels[0].tokens, 0);
  EXPECT_LT(classes[0].levels[0].level, classes[0].levels[1].level);
}

TEST_F(LearnedPolicyTest, SurvivesThatTheClassOfAHeldRequestIsForgotten) {
  teach({4}, 1);
  Request& request = join(1, 1);
  run(request, 2);
  policy_->leave(request);  // held
  for (std::uint64_t key = 2; key < LengthClasses::kMost + 2; ++key) teach({1}, key);
  EXPECT_EQ(policy_->index_s(request), 0.0);
  policy_->join(request, 1.0, std::nullopt);
  run(request, 5);
  end(request);
}

TEST_F(LearnedPolicyTest, RefusesWhatItCannotWorkWith) {
  EXPECT_THROW(LearnedPolicy(mlfq_, {.quantum_ratio = 1.0}, latency_), InvalidArgumentError);
  mlfq_.quanta_s = {std::numeric_limits<double>::infinity()};
  EXPECT_THROW(LearnedPolicy(mlfq_, config_, latency_), InvalidArgumentError);
}

}  // namespace
}  // namespace fastserve::sched
