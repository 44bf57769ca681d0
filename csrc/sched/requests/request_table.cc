#include "sched/requests/request_table.h"

#include <algorithm>
#include <ranges>

#include "base/error.h"

namespace fastserve::sched {

Request& RequestTable::add(std::int64_t id, std::span<const std::int32_t> prompt, std::int32_t max_total,
                           const RequestOptions& options, double now_s) {
  const auto [at, fresh] = live_.try_emplace(id);
  FS_REQUIRE(fresh, "request id ", id, " is in use: ids of unfinished requests must be unique");
  if (free_slots_.empty()) free_slots_.push_back(num_slots_++);
  const RequestIdentity identity{
      .id = id, .serial = next_serial_++, .slot = free_slots_.back(), .max_total = max_total, .arrival_s = now_s};
  at->second = std::make_unique<Request>(identity, prompt, options);
  Request& request = *at->second;
  free_slots_.pop_back();
  if (options.deadline_s > 0.0) deadlines_.emplace(deadline_key(request), &request);
  return request;
}

Request* RequestTable::find_live(std::int64_t id) const {
  const auto at = live_.find(id);
  return at == live_.end() ? nullptr : at->second.get();
}

Request* RequestTable::find(std::int64_t id) const {
  if (Request* const request = find_live(id)) return request;
  for (const Retired& entry : retired_ | std::views::reverse)  // the newest of that id
    if (entry.request->id == id) return entry.request.get();
  return nullptr;
}

void RequestTable::retire(Request& request) {
  if (request.options.deadline_s > 0.0) deadlines_.erase(deadline_key(request));
  auto node = live_.extract(request.id);
  retired_.push_back({std::move(node.mapped())});
}

void RequestTable::mark_delivered() {
  for (Retired& entry : retired_) entry.delivered = true;
}

void RequestTable::purge(std::vector<std::int32_t>& ended_slots) {
  std::erase_if(retired_, [&](const Retired& entry) {
    const bool forgotten = entry.delivered && entry.request->plans_in_flight() == 0;
    if (forgotten) {
      ended_slots.push_back(entry.request->slot());
      free_slots_.push_back(entry.request->slot());
    }
    return forgotten;
  });
}

void RequestTable::check_slots() const {
  std::vector<bool> seen(static_cast<std::size_t>(num_slots_));
  const auto see = [&](std::int32_t slot) {
    FS_CHECK(slot >= 0 && slot < num_slots_ && !seen[static_cast<std::size_t>(slot)], "slot ", slot, " of ", num_slots_,
             " is unknown, or used twice");
    seen[static_cast<std::size_t>(slot)] = true;
  };
  for_each_live([&](const Request& request) { see(request.slot()); });
  for (const Retired& entry : retired_) see(entry.request->slot());
  for (const std::int32_t slot : free_slots_) see(slot);
  FS_CHECK(std::ranges::find(seen, false) == seen.end(), "a slot of ", num_slots_, " is lost");
}

Request* RequestTable::take_expired(double now_s) {
  if (deadlines_.empty() || deadlines_.begin()->first.first > now_s) return nullptr;
  Request* const request = deadlines_.begin()->second;
  deadlines_.erase(deadlines_.begin());
  return request;
}

}  // namespace fastserve::sched
