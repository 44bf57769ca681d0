#include "sched/policies/mlfq.h"

#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <vector>

#include "../request_peer.h"
#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr std::int64_t kMs = 1'000'000;  // in ns

/// Quanta 1, 2, 4, 8 s; two batch slots; starving after 10 s.
class MlfqTest : public ::testing::Test {
 protected:
  MlfqConfig config_{.quanta_s = {1, 2, 4, 8}, .starvation_limit_s = 10.0, .batch_slots = 2};
  std::unique_ptr<Mlfq> mlfq_ = std::make_unique<Mlfq>(config_);
  std::deque<Request> requests_;

  Request& join(double first_s, double now_s = 0.0, std::int32_t priority = 0, double max_pause_s = 0.0) {
    const std::vector<std::int32_t> prompt = {1, 2, 3};
    RequestOptions options;
    options.priority = priority;
    options.max_pause_s = max_pause_s;
    const RequestIdentity identity{
        .id = std::ssize(requests_), .serial = std::ssize(requests_), .max_total = 100, .arrival_s = now_s};
    Request& request = requests_.emplace_back(identity, prompt, options);
    mlfq_->join(request, now_s, first_s);
    return request;
  }

  /// One that has begun: it got a token at `now_s`.
  Request& stream(double now_s, std::int32_t priority = 0, double max_pause_s = 0.0) {
    Request& request = join(1, now_s, priority, max_pause_s);
    mlfq_->follow(request, Policy::Event::kRuns, now_s);
    RequestPeer::add_output(request);
    mlfq_->follow(request, Policy::Event::kRests, now_s);
    return request;
  }

  /// In one iteration of `seconds` that ends at `now_s`.
  bool run(Request& request, double seconds, double now_s, double next_s = 0.0) {
    mlfq_->follow(request, Policy::Event::kRuns, now_s);
    const bool demoted = mlfq_->charge(request, static_cast<std::int64_t>(seconds * 1e9), next_s);
    mlfq_->follow(request, Policy::Event::kRests, now_s);
    mlfq_->order().check_integrity();
    return demoted;
  }

  std::vector<std::int64_t> order() const {
    std::vector<std::int64_t> ids;
    for (const Request* r = mlfq_->order().next(nullptr, kAnyPlace); r; r = mlfq_->order().next(r, kAnyPlace))
      ids.push_back(r->id);
    std::vector<std::int64_t> reversed;
    for (const Request* r = mlfq_->order().prev(nullptr, kAnyPlace); r; r = mlfq_->order().prev(r, kAnyPlace))
      reversed.push_back(r->id);
    EXPECT_EQ(ids, std::vector<std::int64_t>(reversed.rbegin(), reversed.rend()));
    return ids;
  }
};

using Ids = std::vector<std::int64_t>;

TEST(MakeQuanta, GrowByTheRatioUntilTheyCoverTheLongestPrefill) {
  EXPECT_EQ(make_quanta(1, 2, 0, 5), (std::vector<double>{1, 2, 4, 8}));
  EXPECT_EQ(make_quanta(1, 2, 0, 4), (std::vector<double>{1, 2, 4}));
  EXPECT_EQ(make_quanta(1, 3, 2, 100), (std::vector<double>{1, 3}));
  EXPECT_EQ(make_quanta(1, 1.0001, 0, 100).size(), 64u);
  EXPECT_EQ(make_quanta(std::numeric_limits<double>::infinity(), 2, 0, 5).size(), 1u);
  EXPECT_THROW(make_quanta(0, 2, 0, 5), InvalidArgumentError);
  EXPECT_THROW(make_quanta(1, 1, 0, 5), InvalidArgumentError);
  EXPECT_THROW(make_quanta(1, 2, 65, 5), InvalidArgumentError);
  EXPECT_THROW(make_quanta(std::numeric_limits<double>::infinity(), 2, 2, 5), InvalidArgumentError);
}

TEST_F(MlfqTest, JoinsTheFirstLevelWhoseQuantumCoversThePrefill) {
  EXPECT_EQ(join(0.5).queue().level, 0);
  EXPECT_EQ(join(1.0).queue().level, 0);
  EXPECT_EQ(join(1.1).queue().level, 1);
  EXPECT_EQ(join(8.0).queue().level, 3);
  EXPECT_EQ(join(99.0).queue().level, 3);
  config_.skip_join = false;
  mlfq_ = std::make_unique<Mlfq>(config_);
  EXPECT_EQ(join(99.0).queue().level, 0);
}

TEST_F(MlfqTest, KeepsItsPlaceWhileTheQuantumLastsAndThenGoesToTheEndOfTheNextLevel) {
  Request& a = join(1);
  join(1);
  join(2);
  EXPECT_FALSE(run(a, 0.4, 1));
  EXPECT_EQ(order(), (Ids{0, 1, 2}));
  EXPECT_FALSE(run(a, 0.4, 2));
  EXPECT_EQ(a.queue().attained_ns, 800 * kMs);
  EXPECT_TRUE(run(a, 0.4, 3));
  EXPECT_EQ(a.queue().level, 1);
  EXPECT_EQ(a.queue().attained_ns, 0);
  EXPECT_EQ(order(), (Ids{1, 2, 0}));
}

TEST_F(MlfqTest, SkipsLevelsWhoseQuantumDoesNotCoverTheNextIteration) {
  Request& a = join(1);
  EXPECT_TRUE(run(a, 1, 1, /*next_s=*/3.5));
  EXPECT_EQ(a.queue().level, 2);
  EXPECT_TRUE(run(a, 5, 2));
  EXPECT_EQ(a.queue().level, 3);
}

TEST_F(MlfqTest, TakesTurnsInTheLastLevel) {
  Request& a = join(8);
  Request& b = join(8);
  EXPECT_TRUE(run(a, 9, 1));
  EXPECT_EQ(a.queue().level, 3);
  EXPECT_EQ(order(), (Ids{1, 0}));
  EXPECT_TRUE(run(b, 9, 2));
  EXPECT_EQ(order(), (Ids{0, 1}));
}

TEST_F(MlfqTest, PromotesInTheOrderOfBeingDueOneForEverySeat) {
  Request& a = join(8, 0.0);  // 0
  Request& b = join(4, 1.0);  // 1
  join(1, 2.0);               // 2, in Q_1 already
  run(a, 1, 3.0);             // waits from 3 on
  EXPECT_EQ(mlfq_->promote_starving(10.9), 0);
  EXPECT_EQ(mlfq_->promote_starving(11.0), 1);
  EXPECT_EQ(order(), (Ids{1, 2, 0}));
  EXPECT_EQ(b.queue().level, 0);
  EXPECT_EQ(b.queue().promotions, 1);
  EXPECT_EQ(mlfq_->promote_starving(13.0), 0);  // its seat is taken
  RequestPeer::add_output(b);
  EXPECT_FALSE(run(b, 0.2, 13.0));
  EXPECT_TRUE(b.queue().starving);
  EXPECT_TRUE(run(b, 0.1, 13.1));
  EXPECT_FALSE(b.queue().starving);
  EXPECT_EQ(b.queue().level, 1);
  EXPECT_EQ(mlfq_->promote_starving(13.1), 1);
  EXPECT_EQ(order(), (Ids{2, 1, 0}));
}

TEST_F(MlfqTest, GoesOnInTheLevelThatIsWorthItsPromotion) {
  config_.quanta_s = {0.01, 0.02, 0.04, 0.5, 1};
  mlfq_ = std::make_unique<Mlfq>(config_);
  Request& a = join(0.01, 0.0);
  mlfq_->promote_starving(10.0);
  RequestPeer::add_output(a);
  EXPECT_TRUE(run(a, 0.4, 10.4));
  EXPECT_EQ(a.queue().level, 3);
}

TEST_F(MlfqTest, KeepsItsSeatUntilItHasAnOutput) {
  Request& a = join(8, 0.0);
  mlfq_->promote_starving(10.0);
  EXPECT_FALSE(run(a, 5, 15.0));
  EXPECT_TRUE(a.queue().starving);
  RequestPeer::add_output(a);
  EXPECT_TRUE(run(a, 0.01, 16.0));
}

TEST_F(MlfqTest, HasASeatForEveryFourthSlotForStreamsAndForEverySixteenthForOthers) {
  config_.batch_slots = 32;
  config_.max_pause_s = 5.0;
  mlfq_ = std::make_unique<Mlfq>(config_);
  for (int i = 0; i < 12; ++i) stream(0.0);
  for (int i = 0; i < 5; ++i) join(8, 0.0);
  EXPECT_EQ(mlfq_->promote_starving(4.9), 0);
  EXPECT_EQ(mlfq_->promote_starving(5.0), 8);
  EXPECT_EQ(mlfq_->promote_starving(20.0), 2);
  EXPECT_EQ(mlfq_->promote_starving(20.0), 0);
  RequestPeer::add_output(requests_[0]);
  run(requests_[0], 0.3, 20.0);
  mlfq_->leave(requests_[12]);
  EXPECT_EQ(mlfq_->promote_starving(20.0), 2);
  EXPECT_TRUE(requests_[8].queue().starving);
  EXPECT_TRUE(requests_[14].queue().starving);
}

TEST_F(MlfqTest, LimitsTheTimeThatPromotedStartsOfAClassTakeWithTheirPrefills) {
  config_.start_share = 0.25;
  mlfq_ = std::make_unique<Mlfq>(config_);
  Request& a = join(8, 0.0);
  join(1, 0.0);
  join(1, 1.0, 5);
  EXPECT_EQ(mlfq_->promote_starving(10.0), 1);
  mlfq_->leave(a);
  EXPECT_EQ(mlfq_->promote_starving(11.0), 1);  // of the other class
  EXPECT_EQ(mlfq_->promote_starving(40.0), 0);  // 8 s of prefill are a quarter of 32 s
  EXPECT_EQ(mlfq_->promote_starving(42.0), 1);
}

TEST_F(MlfqTest, CountsTheSeatsOfEachClassByItself) {
  join(8, 0.0, 5);  // never runs: those before it take all slots
  EXPECT_EQ(mlfq_->promote_starving(11.0), 1);
  Request& a = join(8, 11.0, 0);
  join(8, 12.0, 5);
  EXPECT_EQ(mlfq_->promote_starving(30.0), 1);
  EXPECT_TRUE(a.queue().starving);
}

TEST_F(MlfqTest, FollowsTheLongestPauseThatARequestAskedFor) {
  config_.max_pause_s = 5.0;
  mlfq_ = std::make_unique<Mlfq>(config_);
  stream(0.0);
  Request& strict = stream(1.0, 0, 0.5);
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(strict, 1.0), 0.5);
  EXPECT_EQ(mlfq_->promote_starving(1.4), 0);
  EXPECT_EQ(mlfq_->promote_starving(1.5), 1);
  EXPECT_TRUE(strict.queue().starving);
  mlfq_->order().check_integrity();
}

TEST_F(MlfqTest, DoesNotPromoteWhatRuns) {
  Request& a = join(8, 0.0);
  mlfq_->follow(a, Policy::Event::kRuns, 0.0);
  EXPECT_EQ(mlfq_->promote_starving(50.0), 0);
  mlfq_->follow(a, Policy::Event::kRests, 50.0);
  EXPECT_EQ(mlfq_->promote_starving(59.0), 0);
  EXPECT_EQ(mlfq_->promote_starving(60.0), 1);
}

TEST_F(MlfqTest, ServesPriorityClassesStrictlyAndPromotesWithinThem) {
  join(1, 0.0, 5);
  join(8, 0.0, -1);
  join(1, 0.0, 0);
  EXPECT_EQ(order(), (Ids{1, 2, 0}));
  mlfq_->promote_starving(11.0);
  mlfq_->promote_starving(11.0);
  EXPECT_EQ(order(), (Ids{1, 2, 0}));
}

TEST_F(MlfqTest, EstimatesTheNextTurnFromTheQuantaOfThoseBefore) {
  config_.starvation_limit_s = 1e9;
  mlfq_ = std::make_unique<Mlfq>(config_);
  Request& a = join(1);  // Q_1
  Request& b = join(1);  // Q_1
  Request& c = join(4);  // Q_3
  Request& d = join(4);  // Q_3
  run(a, 0.25, 0.0);     // 0.75 s left in Q_1
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(a, 0), 0.0);
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(b, 0), 0.75 / 2);
  // Before c: a with 0.75 + 2 (Q_2), b with 1 + 2.
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(c, 0), (0.75 + 2 + 1 + 2) / 2);
  run(c, 1.5, 0.0);  // 2.5 s left
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(d, 0), (0.75 + 2 + 1 + 2 + 2.5) / 2);
  EXPECT_EQ(mlfq_->order().num_ahead(d), 3);
  mlfq_->leave(b);
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(d, 0), (0.75 + 2 + 2.5) / 2);
}

TEST_F(MlfqTest, CountsEveryLevelOfTheClassesBefore) {
  config_.starvation_limit_s = 1e9;
  mlfq_ = std::make_unique<Mlfq>(config_);
  join(2, 0.0, -1);  // Q_2: 2 + 4 + 8 until it has been through all levels
  Request& b = join(1);
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(b, 0), (2 + 4 + 8) / 2.0);
}

TEST_F(MlfqTest, OrdersByEstimatedTurnOtherwiseThanByLevel) {
  // Q_2 stands before Q_4, but the one in Q_4 starves sooner: it is uploaded first and offloaded last.
  Request& low = join(8, 0.0);
  for (int i = 0; i < 8; ++i) join(1, 5.0);
  Request& high = join(2, 5.0);
  EXPECT_TRUE(mlfq_->order().before(high, low));
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(high, 9.5), 8 * 1.0 / 2);
  EXPECT_DOUBLE_EQ(mlfq_->enst_s(low, 9.5), 0.5);
}

TEST_F(MlfqTest, RejoinsAtTheEndOfItsLevel) {
  Request& a = join(1);
  join(1);
  mlfq_->leave(a);
  EXPECT_EQ(order(), (Ids{1}));
  mlfq_->join(a, 3.0, std::nullopt);
  EXPECT_EQ(order(), (Ids{1, 0}));
  EXPECT_EQ(mlfq_->order().level_counts(), (std::vector<std::int32_t>{2, 0, 0, 0}));
}

TEST_F(MlfqTest, WalksOnlyThePlacesAskedFor) {
  Request& a = join(1);
  Request& b = join(4);
  const Place from = b.place();
  RequestPeer::move_to(b, RequestState::kReady);
  static_cast<Policy&>(*mlfq_).order().change_place(b, from);
  EXPECT_EQ(mlfq_->order().next(nullptr, mask_of(Place::kResident)), &b);
  EXPECT_EQ(mlfq_->order().next(nullptr, mask_of(Place::kWaiting)), &a);
  EXPECT_EQ(mlfq_->order().next(&a, mask_of(Place::kWaiting)), nullptr);
  EXPECT_EQ(mlfq_->order().prev(nullptr, mask_of(Place::kWaiting)), &a);
  mlfq_->order().check_integrity();
}

TEST(TicketQueue, FindsCountsAndSumsAcrossGroupsAndHoles) {
  TicketQueue queue;
  std::deque<Request> requests;
  const std::vector<std::int32_t> prompt = {1};
  for (std::int64_t i = 0; i < 5000; ++i) {
    Request& request = requests.emplace_back(RequestIdentity{.id = i, .serial = i}, prompt, RequestOptions{});
    queue.push_back(request);
    if (i % 7 == 0) queue.add_attained(request, i);
  }
  for (std::int64_t i = 0; i < 5000; ++i)
    if (i % 3 != 0 || (i > 1000 && i < 3500)) queue.erase(requests[static_cast<std::size_t>(i)]);
  queue.check_integrity();
  std::int64_t count = 0;
  std::int64_t attained = 0;
  for (Request* r = queue.next(-1, kAnyPlace); r; r = queue.next(r->queue().ticket, kAnyPlace)) {
    ASSERT_TRUE(r->id % 3 == 0 && !(r->id > 1000 && r->id < 3500));
    const auto before = queue.before(r->queue().ticket);
    ASSERT_EQ(before.count, count);
    ASSERT_EQ(before.attained_ns, attained);
    Request* const back = queue.prev(r->queue().ticket, kAnyPlace);
    ASSERT_TRUE(count == 0 ? back == nullptr : back->id < r->id && back->id >= r->id - 2502);
    ++count;
    attained += r->queue().attained_ns;
  }
  EXPECT_EQ(count, queue.size());
  EXPECT_EQ(attained, queue.attained_ns());
  while (Request* r = queue.next(-1, kAnyPlace)) queue.erase(*r);
  queue.push_back(requests[1]);
  EXPECT_EQ(queue.next(-1, kAnyPlace), &requests[1]);
  queue.check_integrity();
}

}  // namespace
}  // namespace fastserve::sched
