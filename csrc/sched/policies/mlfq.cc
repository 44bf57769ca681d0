#include "sched/policies/mlfq.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {

std::int32_t covering_level(std::span<const double> quanta_s, double seconds, std::int32_t first) {
  const auto last = static_cast<std::int32_t>(quanta_s.size()) - 1;
  for (std::int32_t level = first; level < last; ++level)
    if (quanta_s[static_cast<std::size_t>(level)] >= seconds) return level;
  return last;
}

std::vector<double> make_quanta(double first_s, double ratio, std::int32_t num_levels, double longest_s) {
  constexpr std::int32_t kMostLevels = 64;
  FS_REQUIRE(first_s > 0.0, "the first quantum must be above 0 seconds, got ", first_s);
  FS_REQUIRE(ratio > 1.0 && std::isfinite(ratio), "quantum_ratio must be above 1, got ", ratio);
  FS_REQUIRE(num_levels >= 0 && num_levels <= kMostLevels, "num_levels must be between 0 and ", kMostLevels, ", got ",
             num_levels);
  FS_REQUIRE(std::isfinite(first_s) || num_levels <= 1,
             "an infinite first quantum leaves room for one level, got num_levels ", num_levels);
  std::vector<double> quanta_s = {first_s};
  const auto wanted = [&] {
    if (num_levels > 0) return static_cast<std::int32_t>(quanta_s.size()) < num_levels;
    return quanta_s.back() < longest_s && static_cast<std::int32_t>(quanta_s.size()) < kMostLevels;
  };
  while (wanted()) quanta_s.push_back(quanta_s.back() * ratio);
  return quanta_s;
}

Mlfq::Mlfq(MlfqConfig config) : Policy(PolicyTraits{}), config_(std::move(config)), queue_(config_.quanta_s, true) {
  FS_REQUIRE(!config_.quanta_s.empty() && config_.quanta_s.front() > 0.0 && std::ranges::is_sorted(config_.quanta_s),
             "quanta_s must be positive and not decreasing, one per level");
  FS_REQUIRE(config_.batch_slots >= 1, "batch_slots must be at least 1, got ", config_.batch_slots);
  FS_REQUIRE(config_.num_levels >= 0 && config_.num_levels <= std::ssize(config_.quanta_s),
             "num_levels must be between 0 and the number of quanta, got ", config_.num_levels);
  if (config_.num_levels == 0) config_.num_levels = static_cast<std::int32_t>(config_.quanta_s.size());
}

double Mlfq::due_s(const Request& request) const {
  if (request.num_outputs() == 0) return node(request).wait_since_s + config_.starvation_limit_s;
  return node(request).wait_since_s +
         (request.options.max_pause_s > 0.0 ? request.options.max_pause_s : config_.max_pause_s);
}

void Mlfq::start_waiting(Request& request, double now_s) {
  node(request).wait_since_s = now_s;
  if (!promotes() || node(request).starving) return;
  node(request).timed = true;
  Seats& seats = node(request).queue_class->seats;
  node(request).due_s = due_s(request);
  if (request.num_outputs() == 0) return seats.starts.push_back(request);
  if (request.options.max_pause_s <= 0.0) return seats.streams.push_back(request);
  seats.own_pauses.insert(&request);
}

void Mlfq::stop_waiting(Request& request) {
  if (!node(request).timed) return;
  node(request).timed = false;
  Seats& seats = node(request).queue_class->seats;
  if (request.num_outputs() == 0) return seats.starts.erase(request);
  if (request.options.max_pause_s <= 0.0) return seats.streams.erase(request);
  seats.own_pauses.erase(&request);
}

void Mlfq::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  if (!first_iteration_s) return join_level(request, now_s, node(request).level);
  node(request).first_iteration_s = *first_iteration_s;
  join_level(request, now_s, config_.skip_join ? covering_level(levels(), *first_iteration_s) : 0);
}

void Mlfq::join_level(Request& request, double now_s, std::int32_t level) {
  node(request).level = level;
  queue_.enter(request);
  queue_.push_back(request);
  start_waiting(request, now_s);
}

void Mlfq::leave(Request& request) {
  stop_waiting(request);
  queue_.erase(request);
  give_up_seat(request);
  queue_.exit(request);
}

void Mlfq::follow(Request& request, Event event, double now_s) {
  if (event == Event::kRuns) stop_waiting(request);
  if (event == Event::kRests) start_waiting(request, now_s);
}

bool Mlfq::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  queue_.add_attained(request, iteration_ns);
  const double attained_s = static_cast<double>(node(request).attained_ns) * 1e-9;
  if (node(request).starving ? !is_served(request) : attained_s < node(request).work_s) return false;
  // A promotion is worth as much as the levels that grant it would be.
  const double covered_s = node(request).starving ? std::max(attained_s, next_iteration_s) : next_iteration_s;
  move_to_level(request,
                covering_level(levels(), covered_s, std::min(node(request).level + 1, config_.num_levels - 1)));
  return true;
}

bool Mlfq::is_served(const Request& request) const {
  return request.num_outputs() > node(request).outputs_when_seated &&
         static_cast<double>(node(request).attained_ns) * 1e-9 >= node(request).work_s;
}

void Mlfq::move_to_level(Request& request, std::int32_t level) {
  queue_.erase(request);
  give_up_seat(request);
  node(request).level = level;
  node(request).attained_ns = 0;
  queue_.push_back(request);
}

void Mlfq::give_up_seat(Request& request) {
  if (!node(request).starving) return;
  Seats& seats = node(request).queue_class->seats;
  --(node(request).seated_as_stream ? seats.streams_seated : seats.starts_seated);
  node(request).starving = false;
}

std::int64_t Mlfq::promote_starving(double now_s) {
  std::int64_t moved = 0;
  for (const auto& entry : queue_.classes()) moved += promote_due(entry->seats, now_s);
  return moved;
}

std::int64_t Mlfq::promote_due(Seats& seats, double now_s) {
  std::int64_t moved = 0;
  for (; seats.streams_seated < stream_seats(config_.batch_slots); ++moved) {
    Request* const first = seats.first_stream();
    if (!first || node(*first).due_s > now_s) break;
    promote(*first, now_s);
  }
  seats.start_credit_s += config_.start_share * (now_s - seats.credited_s);
  seats.start_credit_s = std::min(seats.start_credit_s, kTurnS);
  seats.credited_s = now_s;
  for (; seats.starts_seated < start_seats(config_.batch_slots) && seats.starts.oldest; ++moved) {
    Request& first = *seats.starts.oldest;
    if (node(first).due_s > now_s || seats.start_credit_s < 0.0) break;
    if (config_.start_share < 1.0) seats.start_credit_s -= node(first).first_iteration_s;
    promote(first, now_s);
  }
  return moved;
}

void Mlfq::promote(Request& request, double now_s) {
  stop_waiting(request);
  queue_.erase(request);
  node(request).starving = true;
  node(request).seated_as_stream = request.num_outputs() > 0;
  node(request).outputs_when_seated = request.num_outputs();
  node(request).work_s =
      node(request).seated_as_stream && request.place() == Place::kResident ? kResidentTurnS : kTurnS;
  Seats& seats = node(request).queue_class->seats;
  ++(node(request).seated_as_stream ? seats.streams_seated : seats.starts_seated);
  node(request).level = 0;
  node(request).attained_ns = 0;
  ++node(request).promotions;
  request.note(Decision::kPromoted, now_s);
  queue_.push_back(request);
}

double Mlfq::enst_s(const Request& request, double now_s) const {
  if (request.plans_in_flight() > 0 || !node(request).queued) return 0.0;
  double enst_s = queue_.work_before_s(request, levels().size()) / config_.batch_slots;
  if (promotes()) enst_s = std::min(enst_s, std::max(0.0, due_s(request) - now_s));
  return std::max(0.0, enst_s);
}

}  // namespace fastserve::sched
