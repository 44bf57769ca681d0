#include "sched/policies/mlfq.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {

namespace {

/// Classes that may stay when their last member leaves: making one costs more than a step.
constexpr std::size_t kMaxIdleClasses = 8;

}  // namespace

struct EarlierDue {
  bool operator()(const Request* a, const Request* b) const {
    const double a_s = a->queue().due_s, b_s = b->queue().due_s;
    return a_s != b_s ? a_s < b_s : a->serial < b->serial;
  }
};

/// Requests that wait, all with the same limit, so in the order of being due.
struct WaitList {
  Request* oldest = nullptr;
  Request* newest = nullptr;

  void push_back(Request& request) {
    request.queue_.older = newest;
    request.queue_.newer = nullptr;
    (newest ? newest->queue_.newer : oldest) = &request;
    newest = &request;
  }
  void erase(Request& request) {
    QueueNode& node = request.queue_;
    (node.older ? node.older->queue_.newer : oldest) = node.newer;
    (node.newer ? node.newer->queue_.older : newest) = node.older;
    node.older = node.newer = nullptr;
  }
};

/// Section 0 holds the promoted, section i + 1 level i.
struct PriorityClass {
  std::int32_t priority = 0;
  std::int64_t size = 0;
  std::vector<TicketQueue> sections;
  WaitList starts;                            // without output
  WaitList streams;                           // with output
  std::set<Request*, EarlierDue> own_pauses;  // with output, and a limit of their own

  /// The stream that is due first; null without any.
  Request* first_stream() const {
    Request* const own = own_pauses.empty() ? nullptr : *own_pauses.begin();
    if (!own || !streams.oldest) return own ? own : streams.oldest;
    return EarlierDue{}(own, streams.oldest) ? own : streams.oldest;
  }
  std::int64_t streams_seated = 0;
  std::int64_t starts_seated = 0;
  double start_credit_s = 0.0;  // of prefill that promoted starts may take, as at credited_s
  double credited_s = 0.0;
};

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

Mlfq::Mlfq(MlfqConfig config) : config_(std::move(config)) {
  FS_REQUIRE(!config_.quanta_s.empty() && config_.quanta_s.front() > 0.0 && std::ranges::is_sorted(config_.quanta_s),
             "quanta_s must be positive and not decreasing, one per level");
  FS_REQUIRE(config_.batch_slots >= 1, "batch_slots must be at least 1, got ", config_.batch_slots);
  FS_REQUIRE(config_.num_levels >= 0 && config_.num_levels <= std::ssize(config_.quanta_s),
             "num_levels must be between 0 and the number of quanta, got ", config_.num_levels);
  if (config_.num_levels == 0) config_.num_levels = static_cast<std::int32_t>(config_.quanta_s.size());
  quanta_sum_s_.push_back(0.0);
  for (const double quantum_s : config_.quanta_s) quanta_sum_s_.push_back(quanta_sum_s_.back() + quantum_s);
}

Mlfq::~Mlfq() = default;

TicketQueue& Mlfq::queue_of(const Request& request) const {
  return node(request).queue_class->sections[section_of(request)];
}

PriorityClass& Mlfq::class_of(std::int32_t priority) {
  const auto at = std::ranges::lower_bound(classes_, priority, {}, [](const auto& entry) { return entry->priority; });
  if (at != classes_.end() && (*at)->priority == priority) return **at;
  auto fresh = std::make_unique<PriorityClass>();
  fresh->priority = priority;
  fresh->sections.resize(config_.quanta_s.size() + 1);
  return **classes_.insert(at, std::move(fresh));
}

void Mlfq::enter(Request& request) {
  ++node(request).queue_class->size;
  queue_of(request).push_back(request);
}

void Mlfq::exit(Request& request) {
  --node(request).queue_class->size;
  queue_of(request).erase(request);
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
  PriorityClass& members = *node(request).queue_class;
  node(request).due_s = due_s(request);
  if (request.num_outputs() == 0) return members.starts.push_back(request);
  if (request.options.max_pause_s <= 0.0) return members.streams.push_back(request);
  members.own_pauses.insert(&request);
}

void Mlfq::stop_waiting(Request& request) {
  if (!node(request).timed) return;
  node(request).timed = false;
  PriorityClass& members = *node(request).queue_class;
  if (request.num_outputs() == 0) return members.starts.erase(request);
  if (request.options.max_pause_s <= 0.0) return members.streams.erase(request);
  members.own_pauses.erase(&request);
}

void Mlfq::join(Request& request, double first_iteration_s) {
  join_level(request, config_.skip_join ? covering_level(levels(), first_iteration_s) : 0, first_iteration_s);
}

void Mlfq::join_level(Request& request, std::int32_t level, double first_iteration_s) {
  node(request).first_iteration_s = first_iteration_s;
  node(request).queue_class = &class_of(config_.use_priority ? request.options.priority : 0);
  node(request).level = level;
  node(request).queued = true;
  enter(request);
  start_waiting(request, request.arrival_s);
}

void Mlfq::leave(Request& request) {
  stop_waiting(request);
  exit(request);
  give_up_seat(request);
  node(request).queued = false;
  if (node(request).queue_class->size == 0 && classes_.size() > kMaxIdleClasses)
    std::erase_if(classes_, [&](const auto& entry) { return entry.get() == node(request).queue_class; });
  node(request).queue_class = nullptr;
}

void Mlfq::rejoin(Request& request, double now_s) {
  node(request).queue_class = &class_of(config_.use_priority ? request.options.priority : 0);
  node(request).queued = true;
  enter(request);
  start_waiting(request, now_s);
}

void Mlfq::change_place(Request& request, Place from) { queue_of(request).change_place(request, from); }

void Mlfq::begin_run(Request& request) { stop_waiting(request); }

void Mlfq::end_run(Request& request, double now_s) { start_waiting(request, now_s); }

bool Mlfq::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  add_attained(request, iteration_ns);
  const double attained_s = static_cast<double>(node(request).attained_ns) * 1e-9;
  if (node(request).starving ? !is_served(request) : attained_s < quantum_s(request)) return false;
  // A promotion is worth as much as the levels that grant it would be.
  const double covered_s = node(request).starving ? std::max(attained_s, next_iteration_s) : next_iteration_s;
  move_to_level(request,
                covering_level(levels(), covered_s, std::min(node(request).level + 1, config_.num_levels - 1)));
  return true;
}

bool Mlfq::is_served(const Request& request) const {
  return request.num_outputs() > node(request).outputs_when_seated &&
         static_cast<double>(node(request).attained_ns) * 1e-9 >= node(request).turn_s;
}

void Mlfq::add_attained(Request& request, std::int64_t iteration_ns) {
  queue_of(request).add_attained(request, iteration_ns);
}

void Mlfq::move_to_level(Request& request, std::int32_t level) {
  queue_of(request).erase(request);
  give_up_seat(request);
  node(request).level = level;
  node(request).attained_ns = 0;
  queue_of(request).push_back(request);
}

void Mlfq::give_up_seat(Request& request) {
  if (!node(request).starving) return;
  --(node(request).seated_as_stream ? node(request).queue_class->streams_seated
                                    : node(request).queue_class->starts_seated);
  node(request).starving = false;
}

std::int64_t Mlfq::promote_starving(double now_s) {
  std::int64_t moved = 0;
  for (const auto& entry : classes_) moved += promote_due(*entry, now_s);
  return moved;
}

std::int64_t Mlfq::promote_due(PriorityClass& members, double now_s) {
  std::int64_t moved = 0;
  for (; members.streams_seated < stream_seats(config_.batch_slots); ++moved) {
    Request* const first = members.first_stream();
    if (!first || node(*first).due_s > now_s) break;
    promote(*first, now_s);
  }
  members.start_credit_s += config_.start_share * (now_s - members.credited_s);
  members.start_credit_s = std::min(members.start_credit_s, kTurnS);
  members.credited_s = now_s;
  for (; members.starts_seated < start_seats(config_.batch_slots) && members.starts.oldest; ++moved) {
    Request& first = *members.starts.oldest;
    if (node(first).due_s > now_s || members.start_credit_s < 0.0) break;
    if (config_.start_share < 1.0) members.start_credit_s -= node(first).first_iteration_s;
    promote(first, now_s);
  }
  return moved;
}

void Mlfq::promote(Request& request, double now_s) {
  stop_waiting(request);
  queue_of(request).erase(request);
  node(request).starving = true;
  node(request).seated_as_stream = request.num_outputs() > 0;
  node(request).outputs_when_seated = request.num_outputs();
  node(request).turn_s =
      node(request).seated_as_stream && request.place() == Place::kResident ? kResidentTurnS : kTurnS;
  ++(node(request).seated_as_stream ? node(request).queue_class->streams_seated
                                    : node(request).queue_class->starts_seated);
  node(request).level = 0;
  node(request).attained_ns = 0;
  ++node(request).promotions;
  request.note(Decision::kPromoted, now_s);
  queue_of(request).push_back(request);
}

Request* Mlfq::next(const Request* after, PlaceMask places) const {
  auto at = classes_.begin();
  std::size_t section = 0;
  std::int64_t ticket = -1;
  if (after) {
    if (Request* const found = queue_of(*after).next(node(*after).ticket, places)) return found;
    at = std::ranges::lower_bound(classes_, node(*after).queue_class->priority, {},
                                  [](const auto& entry) { return entry->priority; });
    section = section_of(*after) + 1;
  }
  for (; at != classes_.end(); ++at, section = 0)
    for (; section < (*at)->sections.size(); ++section)
      if (Request* const found = (*at)->sections[section].next(ticket, places)) return found;
  return nullptr;
}

std::size_t Mlfq::next_run(const Request* after, PlaceMask places, std::span<Request*> run) const {
  if (after) {
    const std::size_t count = queue_of(*after).next_run(node(*after).ticket, places, run);
    if (count > 0) return count;
  }
  Request* const first = next(after, places);
  if (!first) return 0;
  run[0] = first;
  return 1 + queue_of(*first).next_run(node(*first).ticket, places, run.subspan(1));
}

Request* Mlfq::prev(const Request* before, PlaceMask places) const {
  auto end = classes_.end();
  auto sections = std::ptrdiff_t{0};  // of the class before `end` that are still to be searched; 0: all
  if (before) {
    if (Request* const found = queue_of(*before).prev(node(*before).ticket, places)) return found;
    end = std::ranges::upper_bound(classes_, node(*before).queue_class->priority, {},
                                   [](const auto& entry) { return entry->priority; });
    sections = static_cast<std::ptrdiff_t>(section_of(*before));
    if (sections == 0) --end;
  }
  for (; end != classes_.begin(); --end, sections = 0) {
    const auto& all = (*std::prev(end))->sections;
    if (sections == 0) sections = static_cast<std::ptrdiff_t>(all.size());
    while (sections-- > 0)
      if (Request* const found = all[static_cast<std::size_t>(sections)].prev(TicketQueue::kBack, places)) return found;
  }
  return nullptr;
}

bool Mlfq::before(const Request& a, const Request& b) const {
  if (node(a).queue_class != node(b).queue_class) return node(a).queue_class->priority < node(b).queue_class->priority;
  if (section_of(a) != section_of(b)) return section_of(a) < section_of(b);
  return node(a).ticket < node(b).ticket;
}

bool Mlfq::same_level(const Request& a, const Request& b) const {
  return node(a).queue_class == node(b).queue_class && section_of(a) == section_of(b);
}

double Mlfq::quanta_between_s(std::size_t above, std::size_t below) const {
  return below > above + 1 ? quanta_sum_s_[below] - quanta_sum_s_[above + 1] : 0.0;
}

double Mlfq::work_before_s(const Request& request) const {
  const auto level_of_section = [](std::size_t section) { return section == 0 ? std::size_t{0} : section - 1; };
  const auto left_s = [&](std::size_t level, std::int64_t count, std::int64_t attained_ns) {
    return static_cast<double>(count) * config_.quanta_s[level] - static_cast<double>(attained_ns) * 1e-9;
  };
  const std::size_t num_sections = config_.quanta_s.size() + 1;
  double work_s = 0.0;
  for (const auto& entry : classes_) {
    const bool own = entry.get() == node(request).queue_class;
    // A request of a class before never falls behind this one: all its levels count.
    const std::size_t last = own ? section_of(request) : num_sections;
    const std::size_t level = own ? static_cast<std::size_t>(node(request).level) : levels().size();
    for (std::size_t section = 0; section < last; ++section) {
      const TicketQueue& queue = entry->sections[section];
      if (queue.size() == 0) continue;
      const std::size_t above = level_of_section(section);
      work_s += left_s(above, queue.size(), queue.attained_ns()) +
                static_cast<double>(queue.size()) * quanta_between_s(above, level);
    }
    if (!own) continue;
    const TicketQueue::Before ahead = entry->sections[last].before(node(request).ticket);
    if (ahead.count > 0) work_s += left_s(level, ahead.count, ahead.attained_ns);
    break;
  }
  return work_s;
}

double Mlfq::enst_s(const Request& request, double now_s) const {
  if (request.plans_in_flight() > 0 || !node(request).queued) return 0.0;
  double enst_s = work_before_s(request) / config_.batch_slots;
  if (promotes()) enst_s = std::min(enst_s, std::max(0.0, due_s(request) - now_s));
  return std::max(0.0, enst_s);
}

std::int64_t Mlfq::num_ahead(const Request& request) const {
  std::int64_t ahead = 0;
  for (const auto& entry : classes_) {
    if (entry.get() != node(request).queue_class) {
      ahead += entry->size;
      continue;
    }
    for (std::size_t section = 0; section < section_of(request); ++section) ahead += entry->sections[section].size();
    return ahead + queue_of(request).before(node(request).ticket).count;
  }
  return ahead;
}

std::vector<std::int32_t> Mlfq::level_counts() const {
  std::vector<std::int32_t> counts(config_.quanta_s.size(), 0);
  for (const auto& entry : classes_)
    for (std::size_t section = 0; section < entry->sections.size(); ++section)
      counts[section == 0 ? 0 : section - 1] += static_cast<std::int32_t>(entry->sections[section].size());
  return counts;
}

void Mlfq::check_waits(const PriorityClass& members) {
  for (const WaitList* const list : {&members.starts, &members.streams}) {
    const Request* last = nullptr;
    for (const Request* r = list->oldest; r; last = r, r = node(*r).newer) {
      FS_CHECK(node(*r).timed && node(*r).older == last && r->plans_in_flight() == 0 && !node(*r).starving &&
                   (r->num_outputs() > 0) == (list == &members.streams),
               "the list of waiting requests is broken at ", r->id);
      FS_CHECK(!last || node(*last).due_s <= node(*r).due_s, "request ", r->id, " waits longer than the one before it");
    }
    FS_CHECK(last == list->newest, "the list of waiting requests has a loose end");
  }
  for (const Request* r : members.own_pauses)
    FS_CHECK(node(*r).timed && r->plans_in_flight() == 0 && r->num_outputs() > 0 && !node(*r).starving, "request ",
             r->id, " does not belong to the streams that wait");
  std::int64_t streams = 0, starts = 0;
  const TicketQueue& seated = members.sections.front();
  for (const Request* r = seated.next(-1, kAnyPlace); r; r = seated.next(node(*r).ticket, kAnyPlace))
    ++(node(*r).seated_as_stream ? streams : starts);
  FS_CHECK(streams == members.streams_seated && starts == members.starts_seated, "class ", members.priority, " counts ",
           members.streams_seated, " and ", members.starts_seated, " seats taken, not ", streams, " and ", starts);
}

void Mlfq::check_integrity() const {
  for (const auto& entry : classes_) {
    std::int64_t members = 0;
    for (std::size_t section = 0; section < entry->sections.size(); ++section) {
      const TicketQueue& queue = entry->sections[section];
      queue.check_integrity();
      members += queue.size();
      for (const Request* r = queue.next(-1, kAnyPlace); r; r = queue.next(node(*r).ticket, kAnyPlace))
        FS_CHECK(node(*r).queued && node(*r).queue_class == entry.get() && section_of(*r) == section, "request ", r->id,
                 " is in a wrong queue");
    }
    check_waits(*entry);
    FS_CHECK(members == entry->size, "class ", entry->priority, " counts ", entry->size, " of ", members, " requests");
  }
}

}  // namespace fastserve::sched
