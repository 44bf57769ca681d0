#include "sched/lengths/length_class.h"

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
  if (parent_) parent_->enters(prompt_tokens, bin);
}

void LengthClass::moves(std::int32_t prompt_tokens, std::int32_t from, std::int32_t to) {
  histogram_.live_moves(from, to);
  kind(prompt_tokens).histogram.live_moves(from, to);
  if (parent_) parent_->moves(prompt_tokens, from, to);
}

void LengthClass::leaves(std::int32_t prompt_tokens, std::int32_t bin) {
  --num_live_;
  histogram_.live_leaves(bin);
  kind(prompt_tokens).histogram.live_leaves(bin);
  if (parent_) parent_->leaves(prompt_tokens, bin);
}

void LengthClass::ended(std::int32_t prompt_tokens, std::int32_t tokens) {
  ends_by_itself_ = true;
  histogram_.ended(tokens);
  kind(prompt_tokens).histogram.ended(tokens);
  if (parent_) parent_->ended(prompt_tokens, tokens);
  observed();
}

void LengthClass::limited(std::int32_t prompt_tokens, std::int32_t tokens) {
  ends_by_itself_ = true;
  histogram_.limited(tokens);
  kind(prompt_tokens).histogram.limited(tokens);
  if (parent_) parent_->limited(prompt_tokens, tokens);
  observed();
}

void LengthClass::aborted(std::int32_t prompt_tokens, std::int32_t tokens) {
  const bool is_end = !ends_by_itself_ && tokens > 0;
  if (is_end) {
    histogram_.ended(tokens);
    kind(prompt_tokens).histogram.ended(tokens);
  } else {
    histogram_.censored(tokens);
    kind(prompt_tokens).histogram.censored(tokens);
  }
  if (parent_) parent_->aborted(prompt_tokens, tokens);
  if (is_end) observed();
}

void LengthClass::censored(std::int32_t prompt_tokens, std::int32_t tokens) {
  histogram_.censored(tokens);
  kind(prompt_tokens).histogram.censored(tokens);
  if (parent_) parent_->censored(prompt_tokens, tokens);
}

void LengthClass::observed() {
  const std::int64_t seen = num_observations();
  if (rebuilt_at_ > 0 ? seen < rebuilt_at_ + kRebuildInterval
                      : seen < min_observations_ || (parent_ && !parent_->learned()))
    return;
  rebuilt_at_ = seen;
  hazards_ = parent_ ? histogram_.hazards(parent_->hazards_, kPooledWeight) : histogram_.hazards();
  weight_.flat = kFlatShare / (1.0 - kFlatShare) * mean_inverse_length(hazards_);
  index_.rebuild(hazards_, weight_);
}

const GittinsIndex& LengthClass::index(std::int32_t prompt_tokens) {
  return rebuilt_at_ > 0 || !parent_ ? rebuilt(prompt_tokens).index : parent_->index(prompt_tokens);
}

LengthClass::Kind& LengthClass::rebuilt(std::int32_t prompt_tokens) {
  Kind& own = kind(prompt_tokens);
  if (own.rebuilt_at == rebuilt_at_) return own;
  own.rebuilt_at = rebuilt_at_;
  // From the general to the particular: such prompts of all requests, the class, such prompts of the class.
  const auto& of_class =
      parent_ ? histogram_.hazards(parent_->rebuilt(prompt_tokens).hazards, kPooledWeight) : hazards_;
  own.hazards = own.histogram.hazards(of_class, kPooledWeight);
  own.index.rebuild(own.hazards, weight_);
  return own;
}

LengthClass& LengthClasses::of(std::uint64_t key) {
  ++uses_;
  const auto at = entries_.find(key);
  if (at != entries_.end()) {
    at->second.last_use = uses_;
    return *at->second.lengths;
  }
  if (entries_.size() >= kMost && !forget_one()) {
    if (!shared_) shared_ = std::make_unique<LengthClass>(0, requests_);
    return *shared_;
  }
  Entry entry{std::make_unique<LengthClass>(key, requests_), uses_};
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
