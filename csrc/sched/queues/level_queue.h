#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sched/queues/request_queue.h"
#include "sched/queues/seats.h"
#include "sched/queues/ticket_queue.h"

namespace fastserve::sched {

/// The requests of one priority. Section 0 holds the promoted, section i + 1 level i.
struct PriorityClass {
  std::int32_t priority = 0;
  std::int64_t size = 0;
  std::vector<TicketQueue> sections;
  Seats seats;
};

/// Strict classes by priority; in each a front section and levels, each first in, first out. Walks, moves and changes of
/// place do not touch the requests between, see TicketQueue.
class LevelQueue final : public RequestQueue {
 public:
  /// One level per quantum. Without `by_priority` all requests are of one class.
  LevelQueue(std::vector<double> quanta_s, bool by_priority);

  /// It is queued in the class of its priority from now on, but stands nowhere until push_back.
  void enter(Request& request);
  /// After erase: it is queued no more. Its class may go with it.
  void exit(Request& request);
  /// To the end of its section: the front one while it is starving, else that of its level, which grants it a quantum.
  void push_back(Request& request);
  void erase(Request& request) { queue_of(request).erase(request); }
  void add_attained(Request& request, std::int64_t ns) { queue_of(request).add_attained(request, ns); }

  std::span<const std::unique_ptr<PriorityClass>> classes() const { return classes_; }
  /// Seconds that the requests before it may still run, by what is left of the quanta of the levels above its own; those
  /// of the classes before its own pass through the first `num_levels`.
  double work_before_s(const Request& request, std::size_t num_levels) const;

  void change_place(Request& request, Place from) override { queue_of(request).change_place(request, from); }
  Request* next(const Request* after, PlaceMask places) const override;
  Request* prev(const Request* before, PlaceMask places) const override;
  std::size_t next_run(const Request* after, PlaceMask places, std::span<Request*> run) const override;
  bool before(const Request& a, const Request& b) const override;
  bool same_level(const Request& a, const Request& b) const override;
  std::int64_t num_ahead(const Request& request) const override;
  /// The promoted count as members of the first level.
  std::vector<std::int32_t> level_counts() const override;
  std::span<const double> level_quanta_s() const override { return quanta_s_; }
  void check_integrity() const override;

 private:
  static std::size_t section_of(const Request& request) {
    return node(request).starving ? 0 : static_cast<std::size_t>(node(request).level) + 1;
  }
  TicketQueue& queue_of(const Request& request) const {
    return node(request).queue_class->sections[section_of(request)];
  }
  PriorityClass& class_of(std::int32_t priority);
  static void check_seats(const PriorityClass& members);
  /// Quanta of the levels between `above` and `below`, both excluded.
  double quanta_between_s(std::size_t above, std::size_t below) const;

  std::vector<double> quanta_s_;
  bool by_priority_;
  std::vector<double> quanta_sum_s_;                     // [k + 1], of the levels before
  std::vector<std::unique_ptr<PriorityClass>> classes_;  // ascending priority
};

}  // namespace fastserve::sched
