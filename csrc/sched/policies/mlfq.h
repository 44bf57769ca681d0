#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "sched/policies/policy.h"
#include "sched/queues/level_queue.h"

namespace fastserve::sched {

struct MlfqConfig {
  std::vector<double> quanta_s;                                         // of Q_1 .. Q_k, not decreasing
  bool skip_join = true;                                                // false: everyone joins Q_1
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

  void join(Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(Request& request) override;
  void follow(Request& request, Event event, double now_s) override;
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  const RequestQueue& order() const override { return queue_; }
  double enst_s(const Request& request, double now_s) const override;

 protected:
  // For a policy that puts requests into other levels than the quanta would.
  void join_level(Request& request, double now_s, std::int32_t level);
  /// To the end of `level`, with nothing attained there.
  void move_to_level(Request& request, std::int32_t level);
  void add_attained(Request& request, std::int64_t iteration_ns) { queue_.add_attained(request, iteration_ns); }
  /// It has had what its promotion grants.
  bool is_served(const Request& request) const;
  const MlfqConfig& config() const { return config_; }

 private:
  std::span<const double> levels() const {
    return std::span<const double>(config_.quanta_s).first(static_cast<std::size_t>(config_.num_levels));
  }
  bool promotes() const { return config_.quanta_s.size() > 1; }
  void start_waiting(Request& request, double now_s);
  void stop_waiting(Request& request);
  void promote(Request& request, double now_s);
  void give_up_seat(Request& request);
  std::int64_t promote_due(Seats& seats, double now_s);
  double due_s(const Request& request) const;

  MlfqConfig config_;
  LevelQueue queue_;
};

}  // namespace fastserve::sched
