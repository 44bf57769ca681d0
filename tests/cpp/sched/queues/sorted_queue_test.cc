#include "sched/queues/sorted_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "../request_peer.h"

namespace fastserve::sched {
namespace {

using Ids = std::vector<std::int64_t>;

class SortedQueueTest : public ::testing::Test {
 protected:
  SortedQueue queue_{false};
  std::deque<Request> requests_;

  Request& add(SortedQueue& queue, double key, std::int32_t priority = 0) {
    RequestOptions options;
    options.priority = priority;
    const RequestIdentity identity{.id = std::ssize(requests_), .serial = std::ssize(requests_), .max_total = 100};
    Request& request = requests_.emplace_back(identity, std::vector<std::int32_t>{1, 2}, options);
    queue.insert(request, key);
    return request;
  }

  static Ids order(const SortedQueue& queue, PlaceMask places = kAnyPlace) {
    Ids ids, reversed;
    for (const Request* r = queue.next(nullptr, places); r; r = queue.next(r, places)) ids.push_back(r->id);
    for (const Request* r = queue.prev(nullptr, places); r; r = queue.prev(r, places)) reversed.push_back(r->id);
    EXPECT_EQ(ids, Ids(reversed.rbegin(), reversed.rend()));
    queue.check_integrity();
    return ids;
  }
};

TEST_F(SortedQueueTest, SortsByKeyAndThenByArrival) {
  add(queue_, 2.0);
  add(queue_, 1.0);
  Request& last = add(queue_, 1.0);
  EXPECT_EQ(order(queue_), (Ids{1, 2, 0}));
  EXPECT_EQ(queue_.num_ahead(last), 1);
  queue_.move_to(last, 0.0);
  EXPECT_EQ(order(queue_), (Ids{2, 1, 0}));
  queue_.erase(last);
  EXPECT_FALSE(last.queue().queued);
  EXPECT_EQ(order(queue_), (Ids{1, 0}));
}

TEST_F(SortedQueueTest, IgnoresPrioritiesUnlessClassesAreStrict) {
  Request& first = add(queue_, 1.0, 5);
  Request& second = add(queue_, 2.0, 0);
  EXPECT_TRUE(queue_.before(first, second));
  EXPECT_TRUE(queue_.same_level(first, second));
  SortedQueue strict{true};
  Request& behind = add(strict, 1.0, 5);
  Request& before = add(strict, 2.0, 0);
  EXPECT_EQ(order(strict), (Ids{before.id, behind.id}));
  EXPECT_FALSE(strict.same_level(before, behind));
}

TEST_F(SortedQueueTest, FindsMembersByTheirPlace) {
  Request& waiting = add(queue_, 2.0);
  Request& resident = add(queue_, 1.0);
  const Place from = resident.place();
  RequestPeer::move_to(resident, RequestState::kReady);
  queue_.change_place(resident, from);
  EXPECT_EQ(order(queue_, mask_of(Place::kResident)), Ids{resident.id});
  EXPECT_EQ(order(queue_, mask_of(Place::kWaiting)), Ids{waiting.id});
}

}  // namespace
}  // namespace fastserve::sched
