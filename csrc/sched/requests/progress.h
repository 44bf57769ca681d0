#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "sched/requests/request_types.h"

namespace fastserve::sched {

/// The part of a request that the scheduler changes: its tokens, the plans that it is in, how it ends. A change that
/// cannot be throws InternalError.
class Progress {
 public:
  Progress(std::span<const std::int32_t> prompt, std::int32_t max_total)
      : tokens_(prompt.begin(), prompt.end()),
        num_prompt_(static_cast<std::int32_t>(prompt.size())),
        max_total_(max_total) {}

  /// Prompt and outputs.
  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  std::int32_t num_tokens() const { return static_cast<std::int32_t>(tokens_.size()); }
  std::int32_t num_prompt() const { return num_prompt_; }
  std::int32_t num_outputs() const { return num_tokens() - num_prompt_; }
  /// Those of its outputs that its caller uses: up to the stop string, where it ended at one.
  std::int32_t num_answer_tokens() const { return stopped_after_ >= 0 ? stopped_after_ : num_outputs(); }
  /// Prompt and outputs, at most.
  std::int32_t max_total() const { return max_total_; }
  /// Tokens once the samples of the plans in flight are known.
  std::int32_t length() const { return num_tokens() + num_pending_; }
  /// A plan in flight samples for it: its next token is not known yet.
  bool samples_in_flight() const { return num_pending_ > 0; }
  /// The samples in flight bring it to its greatest length.
  bool ends_in_flight() const { return length() >= max_total_; }
  double first_output_s() const { return first_output_s_; }

  std::int32_t plans_in_flight() const { return plans_in_flight_; }
  /// Tokens whose KV the plans in flight write.
  std::int32_t num_in_flight() const { return num_in_flight_; }
  /// Sampling entry in the newest plan that samples for it.
  std::int32_t last_sample() const { return last_sample_; }
  /// Newest plan that contains it; negative: none.
  std::int64_t last_step() const { return last_step_; }
  std::int32_t num_cached_tokens() const { return num_cached_tokens_; }
  std::int64_t preemptions() const { return preemptions_; }
  std::int64_t recomputed_tokens() const { return recomputed_tokens_; }

  /// Decided, but announced with the commit of a plan in flight.
  FinishReason ending() const { return ending_; }
  FinishReason finish_reason() const { return finish_reason_; }
  /// Its caller wants it off the device, and it is not at rest yet.
  bool park_requested() const { return park_requested_; }
  /// By its caller: it is not queued.
  bool held() const { return held_; }

 private:
  friend class Scheduler;
  friend struct RequestPeer;  // of the tests

  /// Note the tokens that the plan of `step` computes for it; returns those whose KV was there once and was dropped.
  std::int32_t take_row(std::int64_t step, std::int32_t start, std::int32_t count) {
    FS_CHECK(step > last_step_ && count >= 1, "step ", step, " has ", count, " tokens of a request of step ",
             last_step_);
    last_step_ = step;
    const std::int32_t end = start + count;
    const std::int32_t again = std::max(0, std::min(end, most_scheduled_) - start);
    most_scheduled_ = std::max(most_scheduled_, end);
    recomputed_tokens_ += again;
    return again;
  }
  /// A plan with `count` of its tokens is in flight; `sample`: the entry that samples for it, negative: none.
  void enter_plan(std::int32_t count, std::int32_t sample) {
    FS_CHECK(finish_reason_ == FinishReason::kNone, "a request in ", plans_in_flight_, " plans, ",
             name_of(finish_reason_), ", cannot enter one more");
    ++plans_in_flight_;
    num_in_flight_ += count;
    if (sample < 0) return;
    last_sample_ = sample;
    ++num_pending_;
  }
  /// That plan was committed, or failed.
  void leave_plan(std::int32_t count, std::int32_t sample) {
    FS_CHECK(plans_in_flight_ > 0 && count <= num_in_flight_, "a request in ", plans_in_flight_, " plans with ",
             num_in_flight_, " tokens cannot leave one with ", count);
    --plans_in_flight_;
    num_in_flight_ -= count;
    num_pending_ -= sample >= 0;
  }
  void add_output(std::int32_t token, double now_s) {
    FS_CHECK(finish_reason_ == FinishReason::kNone && num_tokens() < max_total_, "a request of ", num_tokens(), " of ",
             max_total_, " tokens, ", name_of(finish_reason_), ", takes no more");
    tokens_.push_back(token);
    if (num_outputs() == 1) first_output_s_ = now_s;
  }
  void note_cached_tokens(std::int32_t num_tokens) { num_cached_tokens_ = num_tokens; }
  void note_preemption() { ++preemptions_; }

  void end_with(FinishReason reason) {
    FS_CHECK(ending_ == FinishReason::kNone && reason != FinishReason::kNone, "a request that ends by ",
             name_of(ending_), " cannot end by ", name_of(reason));
    ending_ = reason;
  }
  /// The answer is the first `num_outputs` outputs.
  void cut_answer(std::int32_t num_outputs) { stopped_after_ = num_outputs; }
  void finish(FinishReason reason) {
    FS_CHECK(finish_reason_ == FinishReason::kNone && reason != FinishReason::kNone, "a request finished by ",
             name_of(finish_reason_), " cannot finish by ", name_of(reason));
    finish_reason_ = reason;
  }
  void request_park(bool requested) { park_requested_ = requested; }
  void hold(bool held) {
    FS_CHECK(held != held_, "a request is held and released in turn");
    held_ = held;
  }

  std::vector<std::int32_t> tokens_;
  std::int32_t num_prompt_;
  std::int32_t max_total_;
  std::int32_t num_in_flight_ = 0;
  std::int32_t num_pending_ = 0;  // samples of plans in flight
  std::int32_t last_sample_ = -1;
  std::int32_t plans_in_flight_ = 0;
  std::int64_t last_step_ = -2;
  std::int32_t num_cached_tokens_ = 0;
  std::int32_t most_scheduled_ = 0;  // tokens whose KV was there once, dropped since or not
  FinishReason ending_ = FinishReason::kNone;
  FinishReason finish_reason_ = FinishReason::kNone;
  bool park_requested_ = false;
  bool held_ = false;
  std::int32_t stopped_after_ = -1;  // outputs up to the stop string that the caller found; negative: none
  double first_output_s_ = 0.0;
  std::int64_t preemptions_ = 0;
  std::int64_t recomputed_tokens_ = 0;
};

}  // namespace fastserve::sched
