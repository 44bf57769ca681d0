#include "sched/length_class.h"

#include <algorithm>

namespace fastserve::sched {

void LengthClass::enters(std::int32_t bin) {
  ++num_live_;
  histogram_.live_enters(bin);
}

void LengthClass::leaves(std::int32_t bin) {
  --num_live_;
  histogram_.live_leaves(bin);
}

void LengthClass::ended(std::int32_t tokens) {
  histogram_.ended(tokens);
  const std::int64_t seen = histogram_.num_ended();
  if (learned() ? seen < rebuilt_at_ + kRebuildInterval : seen < min_observations_) return;
  rebuilt_at_ = seen;
  index_.rebuild(histogram_.hazards());
}

LengthClass& LengthClasses::of(std::uint64_t key) {
  ++uses_;
  const auto at = entries_.find(key);
  if (at != entries_.end()) {
    at->second.last_use = uses_;
    return *at->second.lengths;
  }
  if (entries_.size() >= kMost && !forget_one()) {
    if (!shared_) shared_ = std::make_unique<LengthClass>(0, half_life_, min_observations_);
    return *shared_;
  }
  Entry entry{std::make_unique<LengthClass>(key, half_life_, min_observations_), uses_};
  return *entries_.emplace(key, std::move(entry)).first->second.lengths;
}

bool LengthClasses::forget_one() {
  auto oldest = entries_.end();
  for (auto at = entries_.begin(); at != entries_.end(); ++at) {
    if (at->second.lengths->num_live() > 0) continue;
    if (oldest == entries_.end() || at->second.last_use < oldest->second.last_use) oldest = at;
  }
  if (oldest == entries_.end()) return false;
  entries_.erase(oldest);
  return true;
}

std::vector<const LengthClass*> LengthClasses::all() const {
  std::vector<const LengthClass*> result;
  for (const auto& [key, entry] : entries_) result.push_back(entry.lengths.get());
  std::ranges::sort(result, {}, &LengthClass::key);
  if (shared_) result.push_back(shared_.get());
  return result;
}

}  // namespace fastserve::sched
