#include "sched/requests/lifecycle.h"

#include <algorithm>

#include "base/error.h"

namespace fastserve::sched {

void Lifecycle::refuse_move(RequestState next) const {
  detail::raise<InternalError>("a request cannot go from ", name_of(state_), " to ", name_of(next));
}

void Lifecycle::note(Decision decision, double now_s) {
  if (num_decisions_ > 0) {
    auto& last = ring_[static_cast<std::size_t>((next_decision_ + kDecisionsKept - 1) % kDecisionsKept)];
    if (last.decision == decision) {
      last.now_s = now_s;
      return;
    }
  }
  ring_[next_decision_] = {now_s, decision};
  next_decision_ = static_cast<std::uint8_t>((next_decision_ + 1) % kDecisionsKept);
  num_decisions_ = static_cast<std::uint8_t>(std::min<int>(num_decisions_ + 1, kDecisionsKept));
}

std::vector<DecisionEntry> Lifecycle::decisions() const {
  std::vector<DecisionEntry> entries;
  for (int i = 0; i < num_decisions_; ++i)
    entries.push_back(
        ring_[static_cast<std::size_t>((next_decision_ + kDecisionsKept - num_decisions_ + i) % kDecisionsKept)]);
  return entries;
}

void Lifecycle::add_times(RequestStats& stats, double now_s) const {
  Lifecycle now = *this;
  if (const Account account = this->account()) now.*account += now_s - since_s_;
  stats.queue_s = now.queue_s_;
  stats.parked_s = now.parked_s_;
  stats.host_s = now.host_s_;
  stats.upload_wait_s = now.upload_wait_s_;
}

}  // namespace fastserve::sched
