#include "sched/swap_planner.h"

#include <algorithm>

namespace fastserve::sched {
namespace {

constexpr PlaceMask kResident = mask_of(Place::kResident);
constexpr int kMirrorCandidates = 4;
/// Members passed over in the search for candidates, so that a tail full of spared requests does not make the step
/// long.
constexpr int kMaxPassedOver = 4 * SwapPlanner::kMaxCandidates;

}  // namespace

bool SwapPlanner::allowed(const Request& request, bool even_capped) const {
  if (request.last_step() == core_.step || request.left_out_step() == core_.step || request.finished()) return false;
  if (request.ending() != FinishReason::kNone || request.ends_in_flight())
    return false;  // its blocks come free by themselves
  return even_capped || request.parks() < core_.config.max_parks_per_request;
}

std::span<const SwapPlanner::Victim> SwapPlanner::victims(const Request* behind, bool even_capped) {
  victims_.clear();
  const std::int32_t enough = behind ? INT32_MAX : 1;  // who needs no room for a request asks for no price
  int passed_over = 0;
  for (Request* r = core_.policy->order().prev(nullptr, kResident); r; r = core_.policy->order().prev(r, kResident)) {
    if (behind && !core_.policy->order().before(*behind, *r)) break;
    if (!allowed(*r, even_capped)) {
      if (++passed_over > kMaxPassedOver) break;
      continue;
    }
    victims_.push_back({r, core_.policy->enst_s(*r, core_.now_s), core_.kv.num_releasable_blocks(r->seq()),
                        core_.kv.num_blocks_to_offload(r->seq(), enough), r->plans_in_flight() > 0});
    if (victims_.size() == kMaxCandidates) break;
  }
  std::ranges::stable_sort(victims_, [](const Victim& a, const Victim& b) {  // stable: the last in order stays first
    if (a.in_flight != b.in_flight) return !a.in_flight;
    if (a.enst_s != b.enst_s) return a.enst_s > b.enst_s;
    return a.num_copies == 0 && b.num_copies != 0;
  });
  return victims_;
}

Decision SwapPlanner::how_to_evict(const Request& request) const {
  if (request.num_computed() == 0) return Decision::kDroppedEmpty;
  if (core_.config.preemption_mode == PreemptionMode::kRecompute) return Decision::kDroppedByMode;
  if (core_.kv.config().num_host_blocks == 0) return Decision::kDroppedNoHost;
  if (request.offload_failed()) return Decision::kDroppedCopyFailed;
  if (core_.config.preemption_mode == PreemptionMode::kSwap) return Decision::kOffloaded;
  const double upload_s = core_.upload_s(core_.blocks_for(request.num_computed()));
  return core_.latency.prefill_s(request.num_computed(), 0) < upload_s ? Decision::kDroppedCheaper
                                                                       : Decision::kOffloaded;
}

double SwapPlanner::recompute_s(const Victim& victim) const {
  const bool moves =
      how_to_evict(*victim.request) == Decision::kOffloaded && victim.num_copies <= core_.kv.num_free(kv::Tier::kHost);
  return moves ? 0.0 : core_.recompute_s(*victim.request);
}

std::span<Request* const> SwapPlanner::uploads() {
  by_enst_.clear();
  int seen = 0;
  for (Request* r = core_.policy->order().next(nullptr, mask_of(Place::kHost)); r && seen < kMaxCandidates;
       r = core_.policy->order().next(r, mask_of(Place::kHost)), ++seen) {
    if (r->parked_step() == core_.step) continue;
    const double enst_s = core_.policy->enst_s(*r, core_.now_s);
    if (enst_s <= kUploadSlackS + kUploadLead * core_.upload_s(core_.kv.num_blocks_to_upload(r->seq())))
      by_enst_.emplace_back(enst_s, r);
  }
  std::ranges::stable_sort(by_enst_, {}, [](const auto& entry) { return entry.first; });
  uploads_.clear();
  for (const auto& entry : by_enst_) uploads_.push_back(entry.second);
  return uploads_;
}

std::span<const SwapPlanner::Victim> SwapPlanner::mirrors() {
  victims_.clear();
  for (Request* r = core_.policy->order().prev(nullptr, kResident); r && victims_.size() < kMirrorCandidates;
       r = core_.policy->order().prev(r, kResident))
    victims_.push_back({.request = r, .enst_s = core_.policy->enst_s(*r, core_.now_s)});
  std::ranges::stable_sort(victims_, std::ranges::greater{}, &Victim::enst_s);
  return victims_;
}

std::int32_t SwapPlanner::growth(const Request& request, std::int32_t tokens_after) const {
  const std::int32_t tokens = std::min(tokens_after + core_.config.reserve_iterations, request.max_total());
  return std::max(0, core_.blocks_for(tokens) - request.num_blocks());
}

}  // namespace fastserve::sched
