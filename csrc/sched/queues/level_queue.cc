#include "sched/queues/level_queue.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {
namespace {

/// Classes that may stay when their last member leaves: making one costs more than a step.
constexpr std::size_t kMaxIdleClasses = 8;

}  // namespace

LevelQueue::LevelQueue(std::vector<double> quanta_s, bool by_priority)
    : quanta_s_(std::move(quanta_s)), by_priority_(by_priority) {
  quanta_sum_s_.push_back(0.0);
  for (const double quantum_s : quanta_s_) quanta_sum_s_.push_back(quanta_sum_s_.back() + quantum_s);
}

PriorityClass& LevelQueue::class_of(std::int32_t priority) {
  const auto at = std::ranges::lower_bound(classes_, priority, {}, [](const auto& entry) { return entry->priority; });
  if (at != classes_.end() && (*at)->priority == priority) return **at;
  auto fresh = std::make_unique<PriorityClass>();
  fresh->priority = priority;
  fresh->sections.resize(quanta_s_.size() + 1);
  return **classes_.insert(at, std::move(fresh));
}

void LevelQueue::enter(Request& request) {
  node(request).queue_class = &class_of(by_priority_ ? request.options.priority : 0);
  node(request).queued = true;
  ++node(request).queue_class->size;
}

void LevelQueue::exit(Request& request) {
  PriorityClass* const members = std::exchange(node(request).queue_class, nullptr);
  node(request).queued = false;
  if (--members->size == 0 && classes_.size() > kMaxIdleClasses)
    std::erase_if(classes_, [&](const auto& entry) { return entry.get() == members; });
}

void LevelQueue::push_back(Request& request) {
  QueueNode& place = node(request);
  if (!place.starving) place.work_s = quanta_s_[static_cast<std::size_t>(place.level)];
  queue_of(request).push_back(request);
}

Request* LevelQueue::next(const Request* after, PlaceMask places) const {
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

std::size_t LevelQueue::next_run(const Request* after, PlaceMask places, std::span<Request*> run) const {
  if (after) {
    const std::size_t count = queue_of(*after).next_run(node(*after).ticket, places, run);
    if (count > 0) return count;
  }
  Request* const first = next(after, places);
  if (!first) return 0;
  run[0] = first;
  return 1 + queue_of(*first).next_run(node(*first).ticket, places, run.subspan(1));
}

Request* LevelQueue::prev(const Request* before, PlaceMask places) const {
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

bool LevelQueue::before(const Request& a, const Request& b) const {
  if (node(a).queue_class != node(b).queue_class) return node(a).queue_class->priority < node(b).queue_class->priority;
  if (section_of(a) != section_of(b)) return section_of(a) < section_of(b);
  return node(a).ticket < node(b).ticket;
}

bool LevelQueue::same_level(const Request& a, const Request& b) const {
  return node(a).queue_class == node(b).queue_class && section_of(a) == section_of(b);
}

double LevelQueue::quanta_between_s(std::size_t above, std::size_t below) const {
  return below > above + 1 ? quanta_sum_s_[below] - quanta_sum_s_[above + 1] : 0.0;
}

double LevelQueue::work_before_s(const Request& request, std::size_t num_levels) const {
  const auto level_of_section = [](std::size_t section) { return section == 0 ? std::size_t{0} : section - 1; };
  const auto left_s = [&](std::size_t level, std::int64_t count, std::int64_t attained_ns) {
    return static_cast<double>(count) * quanta_s_[level] - static_cast<double>(attained_ns) * 1e-9;
  };
  const std::size_t num_sections = quanta_s_.size() + 1;
  double work_s = 0.0;
  for (const auto& entry : classes_) {
    const bool own = entry.get() == node(request).queue_class;
    // A request of a class before never falls behind this one: all its levels count.
    const std::size_t last = own ? section_of(request) : num_sections;
    const std::size_t level = own ? static_cast<std::size_t>(node(request).level) : num_levels;
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

std::int64_t LevelQueue::num_ahead(const Request& request) const {
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

std::vector<std::int32_t> LevelQueue::level_counts() const {
  std::vector<std::int32_t> counts(quanta_s_.size(), 0);
  for (const auto& entry : classes_)
    for (std::size_t section = 0; section < entry->sections.size(); ++section)
      counts[section == 0 ? 0 : section - 1] += static_cast<std::int32_t>(entry->sections[section].size());
  return counts;
}

void LevelQueue::check_seats(const PriorityClass& members) {
  members.seats.check_integrity();
  std::int64_t streams = 0, starts = 0;
  const TicketQueue& seated = members.sections.front();
  for (const Request* r = seated.next(-1, kAnyPlace); r; r = seated.next(node(*r).ticket, kAnyPlace))
    ++(node(*r).seated_as_stream ? streams : starts);
  FS_CHECK(streams == members.seats.streams_seated && starts == members.seats.starts_seated, "class ", members.priority,
           " counts ", members.seats.streams_seated, " and ", members.seats.starts_seated, " seats taken, not ",
           streams, " and ", starts);
}

void LevelQueue::check_integrity() const {
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
    check_seats(*entry);
    FS_CHECK(members == entry->size, "class ", entry->priority, " counts ", entry->size, " of ", members, " requests");
  }
}

}  // namespace fastserve::sched
