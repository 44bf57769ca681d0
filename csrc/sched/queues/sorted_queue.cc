#include "sched/queues/sorted_queue.h"

#include <iterator>

#include "base/error.h"

namespace fastserve::sched {

void SortedQueue::insert(Request& request, double key) {
  node(request).sort_key = key;
  node(request).queued = true;
  plane(request.place()).insert(&request);
}

void SortedQueue::erase(Request& request) {
  plane(request.place()).erase(&request);
  node(request).queued = false;
}

void SortedQueue::move_to(Request& request, double key) {
  Plane& own = plane(request.place());
  own.erase(&request);
  node(request).sort_key = key;
  own.insert(&request);
}

void SortedQueue::change_place(Request& request, Place from) {
  plane(from).erase(&request);
  plane(request.place()).insert(&request);
}

Request* SortedQueue::next(const Request* after, PlaceMask places) const {
  Request* best = nullptr;
  for (std::size_t place = 0; place < kNumPlaces; ++place) {
    if ((places >> place & 1u) == 0) continue;
    const auto& members = planes_[place];
    const auto at = after ? members.upper_bound(const_cast<Request*>(after)) : members.begin();
    if (at != members.end() && (!best || before(**at, *best))) best = *at;
  }
  return best;
}

Request* SortedQueue::prev(const Request* before_it, PlaceMask places) const {
  Request* best = nullptr;
  for (std::size_t place = 0; place < kNumPlaces; ++place) {
    if ((places >> place & 1u) == 0) continue;
    const auto& members = planes_[place];
    const auto at = before_it ? members.lower_bound(const_cast<Request*>(before_it)) : members.end();
    if (at != members.begin() && (!best || before(*best, **std::prev(at)))) best = *std::prev(at);
  }
  return best;
}

std::int64_t SortedQueue::num_ahead(const Request& request) const {
  std::int64_t ahead = 0;
  for (const auto& members : planes_)
    ahead += std::distance(members.begin(), members.lower_bound(const_cast<Request*>(&request)));
  return ahead;
}

std::vector<std::int32_t> SortedQueue::level_counts() const {
  std::size_t members = 0;
  for (const auto& each : planes_) members += each.size();
  return {static_cast<std::int32_t>(members)};
}

void SortedQueue::check_integrity() const {
  for (std::size_t place = 0; place < kNumPlaces; ++place)
    for (const Request* request : planes_[place])
      FS_CHECK(node(*request).queued && request->place() == static_cast<Place>(place), "request ", request->id,
               " stands in a wrong place");
}

}  // namespace fastserve::sched
