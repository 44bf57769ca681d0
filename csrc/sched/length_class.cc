#include "sched/length_class.h"

#include <algorithm>

namespace fastserve::sched {

LengthClass::Kind& LengthClass::kind(std::int32_t prompt_tokens) {
  auto& kind = kinds_[PromptKinds::of(prompt_tokens)];
  if (!kind) kind = std::make_unique<Kind>(half_life_);
  return *kind;
}

void LengthClass::enters(std::int32_t prompt_tokens, std::int32_t bin) {
  ++num_live_;
  histogram_.live_enters(bin);
  kind(prompt_tokens).histogram.live_enters(bin);
}

void LengthClass::moves(std::int32_t prompt_tokens, std::int32_t from, std::int32_t to) {
  histogram_.live_moves(from, to);
  kind(prompt_tokens).histogram.live_moves(from, to);
}

void LengthClass::leaves(std::int32_t prompt_tokens, std::int32_t bin) {
  --num_live_;
  histogram_.live_leaves(bin);
  kind(prompt_tokens).histogram.live_leaves(bin);
}

void LengthClass::censored(std::int32_t prompt_tokens, std::int32_t tokens) {
  histogram_.censored(tokens);
  kind(prompt_tokens).histogram.censored(tokens);
}

void LengthClass::ended(std::int32_t prompt_tokens, std::int32_t tokens) {
  histogram_.ended(tokens);
  kind(prompt_tokens).histogram.ended(tokens);
  const std::int64_t seen = histogram_.num_ended();
  if (learned() ? seen < rebuilt_at_ + kRebuildInterval : seen < min_observations_) return;
  rebuilt_at_ = seen;
  hazards_ = histogram_.hazards();
  weight_.flat = kFlatShare / (1.0 - kFlatShare) * mean_inverse_length(hazards_);
  index_.rebuild(hazards_, weight_);
}

const GittinsIndex& LengthClass::index(std::int32_t prompt_tokens) {
  Kind& own = kind(prompt_tokens);
  if (own.rebuilt_at != rebuilt_at_) {
    own.rebuilt_at = rebuilt_at_;
    own.index.rebuild(own.histogram.hazards(hazards_, kPooledWeight), weight_);
  }
  return own.index;
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
