#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include "sched/queues/request_queue.h"

namespace fastserve::sched {

/// Requests by a key, the smallest first, then in order of arrival; in one level, or one per priority. Changes cost
/// O(log n), num_ahead and level_counts O(n).
class SortedQueue final : public RequestQueue {
 public:
  /// With `by_priority` the requests of each priority stand before those of larger ones, whatever their keys.
  explicit SortedQueue(bool by_priority) : planes_(filled(Earlier{by_priority})) {}

  void insert(Request& request, double key);
  void erase(Request& request);
  /// A member's key changes.
  void move_to(Request& request, double key);

  void change_place(Request& request, Place from) override;
  Request* next(const Request* after, PlaceMask places) const override;
  Request* prev(const Request* before_it, PlaceMask places) const override;
  bool before(const Request& a, const Request& b) const override { return order()(&a, &b); }
  bool same_level(const Request& a, const Request& b) const override { return order().level(a) == order().level(b); }
  std::int64_t num_ahead(const Request& request) const override;
  std::vector<std::int32_t> level_counts() const override;
  void check_integrity() const override;

 private:
  struct Earlier {
    bool by_priority;
    std::int32_t level(const Request& request) const { return by_priority ? request.options.priority : 0; }
    bool operator()(const Request* a, const Request* b) const {
      if (level(*a) != level(*b)) return level(*a) < level(*b);
      if (node(*a).sort_key != node(*b).sort_key) return node(*a).sort_key < node(*b).sort_key;
      return a->serial < b->serial;
    }
  };
  using Plane = std::set<Request*, Earlier>;
  using Planes = std::array<Plane, kNumPlaces>;

  static Planes filled(const Earlier& order) { return {Plane(order), Plane(order), Plane(order), Plane(order)}; }
  Earlier order() const { return planes_[0].key_comp(); }
  Plane& plane(Place place) { return planes_[static_cast<std::size_t>(place)]; }

  Planes planes_;
};

}  // namespace fastserve::sched
