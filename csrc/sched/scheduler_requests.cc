#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "sched/scheduler.h"

namespace fastserve::sched {

void Scheduler::set_now(double now_s) {
  FS_REQUIRE(std::isfinite(now_s), "now_s must be a finite number of seconds, got ", now_s);
  core_.now_s = std::max(core_.now_s, now_s);
}

std::int32_t Scheduler::add(std::int64_t request_id, std::span<const std::int32_t> prompt,
                            const RequestOptions& options, double now_s) {
  const auto& config = core_.config;
  const auto pool_tokens = static_cast<std::int64_t>(core_.num_device_blocks()) * core_.block_size();
  const auto prompt_tokens = static_cast<std::int64_t>(prompt.size());
  FS_REQUIRE(prompt_tokens >= 1, "the prompt must have at least one token, got none");
  FS_REQUIRE(prompt_tokens < config.max_model_len, "the prompt must be shorter than max_model_len (",
             config.max_model_len, " tokens), got ", prompt_tokens, ": shorten it or raise max_model_len");
  FS_REQUIRE(prompt_tokens <= pool_tokens, "the prompt must fit the device KV pool (", pool_tokens, " tokens), got ",
             prompt_tokens, ": shorten it or enlarge the pool");
  check_options(options);
  set_now(now_s);
  // The KV of the last token is never written: a request of pool_tokens + 1 tokens fits.
  const auto max_total = static_cast<std::int32_t>(
      std::min({static_cast<std::int64_t>(config.max_model_len), prompt_tokens + options.max_tokens, pool_tokens + 1}));
  Request& request = table_.add(request_id, prompt, max_total, options, core_.now_s);
  const auto cached = static_cast<std::int32_t>(core_.kv.probe_prefix(prompt, options.cache_salt));
  mover_.expect_start(request, std::min(core_.blocks_for(request.num_prompt()) + 1, core_.num_device_blocks()) -
                                   cached / core_.block_size());
  ++core_.num_in_state[static_cast<std::size_t>(RequestState::kWaiting)];
  arrivals_.add(request.start_need(), core_.now_s);
  core_.policy->join(request, core_.now_s, core_.latency.prefill_s(request.num_prompt() - cached, cached));
  request.note(Decision::kJoined, core_.now_s);
  return request.slot();
}

bool Scheduler::abort(std::int64_t request_id, double now_s) {
  return end_by_caller(request_id, FinishReason::kAbort, now_s);
}

bool Scheduler::fail(std::int64_t request_id, double now_s) {
  return end_by_caller(request_id, FinishReason::kError, now_s);
}

bool Scheduler::end_by_caller(std::int64_t request_id, FinishReason reason, double now_s) {
  set_now(now_s);
  Request* const request = table_.find_live(request_id);
  if (!request) return false;
  end_soon(*request, reason);
  return true;
}

bool Scheduler::stop(std::int64_t request_id, std::int32_t num_tokens, double now_s) {
  set_now(now_s);
  Request* const request = table_.find_live(request_id);
  if (!request) return false;
  FS_REQUIRE(num_tokens >= 1 && num_tokens <= request->num_outputs(), "a stop string must end within the ",
             request->num_outputs(), " outputs of request ", request_id, ", got ", num_tokens,
             " tokens before its end");
  if (request->ending() == FinishReason::kNone) request->cut_answer(num_tokens);
  end_soon(*request, FinishReason::kStop);
  return true;
}

void Scheduler::expire_deadlines() {
  while (Request* const request = table_.take_expired(core_.now_s)) end_soon(*request, FinishReason::kDeadline);
}

void Scheduler::end_soon(Request& request, FinishReason reason) {
  if (request.ending() != FinishReason::kNone) return;
  request.end_with(reason);
  if (request.plans_in_flight() == 0) finish(request, reason);
}

void Scheduler::finish(Request& request, FinishReason reason, std::int32_t sample, std::int32_t token) {
  request.finish(reason);
  if (request.queue().queued) core_.policy->leave(request);
  std::erase(park_requests_, &request);
  core_.freed.add(static_cast<std::int32_t>(request.blocks().size()), core_.now_s);
  if (request.plans_in_flight() == 0) mover_.end(request);
  core_.move(request, RequestState::kFinished);
  ++core_.stats.finished;
  core_.count_started(request, false);
  push_event(request, reason, sample, token);
  table_.retire(request);
}

void Scheduler::push_event(const Request& request, FinishReason reason, std::int32_t sample, std::int32_t token) {
  events_.request_ids.push_back(request.id);
  events_.sample_indices.push_back(sample);
  events_.token_ids.push_back(token);
  events_.finish_reasons.push_back(static_cast<std::uint8_t>(reason));
  events_.num_cached_tokens.push_back(request.num_cached_tokens());
}

FinishReason Scheduler::reason_to_finish(const Request& request) const {
  // The token at output index o may stop the request once min_tokens came before it.
  if (request.is_stop_token(request.tokens().back()) && request.num_outputs() > request.options.min_tokens)
    return FinishReason::kStop;
  return request.num_tokens() >= request.max_total() ? FinishReason::kLength : FinishReason::kNone;
}

bool Scheduler::park(std::int64_t request_id, bool hold, double now_s) {
  set_now(now_s);
  Request* const request = table_.find_live(request_id);
  if (!request || request->ending() != FinishReason::kNone) return false;
  if (hold && !request->held()) {
    request->hold(true);
    core_.policy->leave(*request);
    core_.count_started(*request, false);
    request->note(Decision::kHeld, core_.now_s);
  }
  if (!request->park_requested()) {
    request->request_park(true);
    park_requests_.push_back(request);
  }
  return true;
}

bool Scheduler::unpark(std::int64_t request_id, double now_s) {
  set_now(now_s);
  Request* const request = table_.find_live(request_id);
  if (!request || request->ending() != FinishReason::kNone) return false;
  if (request->park_requested()) std::erase(park_requests_, request);
  request->request_park(false);
  if (!request->held()) return true;
  request->hold(false);
  core_.policy->join(*request, core_.now_s, std::nullopt);
  core_.count_started(*request, request->has_kv() || request->num_outputs() > 0);
  if (request->plans_in_flight() > 0) core_.policy->follow(*request, Policy::Event::kRuns, core_.now_s);
  request->note(Decision::kReleased, core_.now_s);
  return true;
}

void Scheduler::process_parks() {
  std::erase_if(park_requests_, [this](Request* request) { return at_rest_after_park(*request); });
}

bool Scheduler::at_rest_after_park(Request& request) {
  if (request.state() == RequestState::kReady) {
    const Decision how = planner_.how_to_evict(request);
    request.note(Decision::kParkedByCaller, core_.now_s);
    mover_.evict(request, how == Decision::kDroppedCheaper ? Decision::kOffloaded : how);
    ++parks_by_caller_;
    mover_.allow_return(request);  // it may come back in this very step, should nothing else run
  }
  // While held it is followed until it is at rest, should a copy fail.
  const bool moving = request.state() == RequestState::kOffloading && request.held();
  const bool at_rest =
      !moving && request.state() != RequestState::kRunning && request.state() != RequestState::kUploading;
  if (at_rest) request.request_park(false);
  return at_rest;
}

}  // namespace fastserve::sched
