#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "sched/policies/policy.h"
#include "sched/policies/ticket_queue.h"

namespace fastserve::sched {

struct MlfqConfig {
  std::vector<double> quanta_s;                                         // of Q_1 .. Q_k, not decreasing
  bool skip_join = true;                                                // false: everyone joins Q_1
  bool use_priority = true;                                             // classes by RequestOptions::priority, strict
  double starvation_limit_s = std::numeric_limits<double>::infinity();  // until the first output
  double max_pause_s = std::numeric_limits<double>::infinity();  // between outputs, unless the request says other
  /// Promoted starts of a class take at most this share of the time with their prefills, 1: no limit. Where every request
  /// is due, the rest of the order is what keeps the means short.
  double start_share = 1.0;
  std::int32_t batch_slots = 1;
  std::int32_t num_levels = 0;  // Q_1 .. that joins and demotions use; 0: all of quanta_s
};

/// Return the first level whose quantum covers `seconds`, from level `first` on; the last level if none does.
std::int32_t covering_level(std::span<const double> quanta_s, double seconds, std::int32_t first = 0);

/// quanta_s[i] = first_s * ratio^i; as many as it takes to cover `longest_s` when num_levels is 0, at most 64.
std::vector<double> make_quanta(double first_s, double ratio, std::int32_t num_levels, double longest_s);

/// Skip-join multi-level feedback queue. Source: FastServe (NSDI '26), section on skip-join MLFQ; priority classes and
/// the front section for starving requests are ours.
///
/// Each class has a front section and levels Q_1..Q_k. A request is due when it waited for the starvation limit, or when
/// its stream, once begun, paused for max_pause_s. Those due move to the end of the front section, which is served
/// before the rest of Q_1: no request that moved there later, and none that is not due, comes before it. It counts as a
/// member of Q_1.
///
/// - There is a seat for every fourth batch slot for streams, and for every sixteenth for requests that wait for their
///   first output, at least one each, per class: the rest of the batch keeps its order.
/// - A request keeps its seat until it has got an output and has run for its turn. Then the next one is promoted. So
///   every seat brings its request on, even if it had to compute all its KV again.
///
/// With a single level there is nothing to promote from: plain FIFO.
class Mlfq : public Policy {
 public:
  /// Iterations that a promotion grants at least, seconds: to a stream whose KV is on the device, and to any other request,
  /// which has to be worth a move of its KV or its prefill.
  static constexpr double kResidentTurnS = 0.05;
  static constexpr double kTurnS = 0.3;

  /// Seats of one class with so many batch slots: for streams that paused, and for requests without output.
  static std::int64_t stream_seats(std::int32_t batch_slots) { return (batch_slots + 3) / 4; }
  static std::int64_t start_seats(std::int32_t batch_slots) { return (batch_slots + 15) / 16; }

  /// Throws InvalidArgumentError when quanta_s is empty, not positive or decreasing.
  explicit Mlfq(MlfqConfig config);
  ~Mlfq() override;

  void join(Request& request, double first_iteration_s) override;
  void leave(Request& request) override;
  void rejoin(Request& request, double now_s) override;
  void change_place(Request& request, Place from) override;
  void begin_run(Request& request) override;
  void end_run(Request& request, double now_s) override;
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  Request* next(const Request* after, PlaceMask places) const override;
  Request* prev(const Request* before, PlaceMask places) const override;
  std::size_t next_run(const Request* after, PlaceMask places, std::span<Request*> run) const override;
  bool before(const Request& a, const Request& b) const override;
  bool same_level(const Request& a, const Request& b) const override;
  double enst_s(const Request& request, double now_s) const override;
  double quantum_s(const Request& request) const override {
    return config_.quanta_s[static_cast<std::size_t>(node(request).level)];
  }
  double work_s(const Request& request) const override {
    return node(request).starving ? node(request).turn_s : quantum_s(request);
  }
  std::vector<double> level_quanta_s() const override { return config_.quanta_s; }
  std::int64_t num_ahead(const Request& request) const override;
  std::vector<std::int32_t> level_counts() const override;
  void check_integrity() const override;

 protected:
  // For a policy that puts requests into other levels than the quanta would.
  void join_level(Request& request, std::int32_t level, double first_iteration_s);
  /// To the end of `level`, with nothing attained there.
  void move_to_level(Request& request, std::int32_t level);
  void add_attained(Request& request, std::int64_t iteration_ns);
  /// It has had what its promotion grants.
  bool is_served(const Request& request) const;
  const MlfqConfig& config() const { return config_; }

 private:
  std::span<const double> levels() const {
    return std::span<const double>(config_.quanta_s).first(static_cast<std::size_t>(config_.num_levels));
  }
  bool promotes() const { return config_.quanta_s.size() > 1; }
  static std::size_t section_of(const Request& request) {
    return node(request).starving ? 0 : static_cast<std::size_t>(node(request).level) + 1;
  }
  TicketQueue& queue_of(const Request& request) const;
  PriorityClass& class_of(std::int32_t priority);
  void enter(Request& request);
  void exit(Request& request);
  void start_waiting(Request& request, double now_s);
  void stop_waiting(Request& request);
  void promote(Request& request, double now_s);
  void give_up_seat(Request& request);
  std::int64_t promote_due(PriorityClass& members, double now_s);
  double due_s(const Request& request) const;
  static void check_waits(const PriorityClass& members);
  double work_before_s(const Request& request) const;
  /// Quanta of the levels between `above` and `below`, both excluded.
  double quanta_between_s(std::size_t above, std::size_t below) const;

  MlfqConfig config_;
  std::vector<double> quanta_sum_s_;                     // [k + 1], of the levels before
  std::vector<std::unique_ptr<PriorityClass>> classes_;  // ascending priority
};

}  // namespace fastserve::sched
