#include "sched/request.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fastserve::sched {
const char* name_of(RequestState state) {
  static constexpr std::array<const char*, kNumRequestStates> kNames = {"waiting", "ready",     "running", "offloading",
                                                                        "parked",  "uploading", "finished"};
  return kNames[static_cast<std::size_t>(state)];
}

const char* name_of(FinishReason reason) {
  static constexpr std::array<const char*, 6> kNames = {"none", "stop", "length", "abort", "error", "deadline"};
  return kNames[static_cast<std::size_t>(reason)];
}

const char* name_of(Decision decision) {
  static constexpr std::array<const char*, 21> kNames = {"none",
                                                         "joined",
                                                         "started",
                                                         "promoted",
                                                         "demoted",
                                                         "blocked by memory",
                                                         "left out",
                                                         "offloaded",
                                                         "offloaded: already mirrored",
                                                         "dropped: recompute mode",
                                                         "dropped: recompute is cheaper",
                                                         "dropped: host pool full",
                                                         "dropped: no host pool",
                                                         "dropped: copy failed",
                                                         "dropped: nothing computed",
                                                         "uploaded on demand",
                                                         "uploaded ahead",
                                                         "copy failed",
                                                         "parked by caller",
                                                         "held",
                                                         "released"};
  return kNames[static_cast<std::size_t>(decision)];
}

void check_options(const RequestOptions& options) {
  const auto at_least = [](const char* name, std::int64_t value, std::int64_t low) {
    FS_REQUIRE(value >= low, name, " must be at least ", low, ", got ", value);
  };
  at_least("max_tokens", options.max_tokens, 1);
  at_least("min_tokens", options.min_tokens, 0);
  at_least("oracle_output_tokens", options.oracle_output_tokens, 0);
  FS_REQUIRE(!std::isnan(options.max_pause_s), "max_pause_s must be a number of seconds, 0 for the engine's, got ",
             options.max_pause_s);
  FS_REQUIRE(!std::isnan(options.ttft_slo_s), "ttft_slo_s must be a number of seconds, 0 for the engine's, got ",
             options.ttft_slo_s);
  FS_REQUIRE(!std::isnan(options.tpot_slo_s), "tpot_slo_s must be a number of seconds, 0 for the engine's, got ",
             options.tpot_slo_s);
  FS_REQUIRE(!std::isnan(options.deadline_s), "deadline_s must be a number of seconds, 0 for none, got ",
             options.deadline_s);
}

Request::Request(std::int64_t request_id, std::int64_t serial_number, std::span<const std::int32_t> prompt,
                 const RequestOptions& request_options, double now_s)
    : id(request_id),
      serial(serial_number),
      arrival_s(now_s),
      tokens(prompt.begin(), prompt.end()),
      num_prompt(static_cast<std::int32_t>(prompt.size())),
      has_stop_tokens((!request_options.ignore_eos && !request_options.eos_token_ids.empty()) ||
                      !request_options.stop_token_ids.empty()),
      wait_since_s(now_s),
      options(request_options),
      since_s_(now_s) {}

void Request::refuse_move(RequestState next) const {
  detail::raise<InternalError>("request ", id, " cannot go from ", name_of(state_), " to ", name_of(next));
}

void Request::note(Decision decision, double now_s) {
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

std::vector<DecisionEntry> Request::decisions() const {
  std::vector<DecisionEntry> entries;
  for (int i = 0; i < num_decisions_; ++i)
    entries.push_back(
        ring_[static_cast<std::size_t>((next_decision_ + kDecisionsKept - num_decisions_ + i) % kDecisionsKept)]);
  return entries;
}

RequestStats Request::stats(double now_s) const {
  Request* const self = const_cast<Request*>(this);
  RequestStats result{.preemptions = preemptions,
                      .parked_s = parked_s_,
                      .host_s = host_s_,
                      .upload_wait_s = upload_wait_s_,
                      .recomputed_tokens = recomputed_tokens,
                      .queue_s = queue_s_};
  const double open_s = now_s - since_s_;
  const double* const seconds = self->account();
  if (seconds == &parked_s_) result.parked_s += open_s;
  if (seconds == &host_s_) result.host_s += open_s;
  if (seconds == &upload_wait_s_) result.upload_wait_s += open_s;
  if (seconds == &queue_s_) result.queue_s += open_s;
  return result;
}

bool Request::stops_at(std::int32_t token) const {
  const auto holds = [token](const std::vector<std::int32_t>& ids) {
    return std::ranges::find(ids, token) != ids.end();
  };
  return (!options.ignore_eos && holds(options.eos_token_ids)) || holds(options.stop_token_ids);
}

}  // namespace fastserve::sched
