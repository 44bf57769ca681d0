#pragma once

#include <array>
#include <cstdint>

#include "sched/lengths/length_bins.h"

namespace fastserve::sched {

/// What is known of the output lengths of one class of requests: ends and censored observations by bin, each new one
/// weighing more than the one before, so that after `half_life` of them an old one counts half; and where the live
/// requests stand. A length is censored when only a lower bound is known: aborted, cut off at a limit, or still running.
class LengthHistogram {
 public:
  using Hazards = std::array<double, LengthBins::kNum>;

  /// `half_life`: in observations, above 0; infinity never forgets. `prior_weight`: observations that the prior
  /// counts for. The prior is a heavy tail, P(X > x) = 16 / (16 + x): a request is expected to go on for as long as it
  /// has, which is what an MLFQ assumes of all.
  explicit LengthHistogram(double half_life, double prior_weight = 1.0);

  /// It ended after `tokens` >= 1 outputs.
  void ended(std::int32_t tokens);
  /// It reached its limit of `tokens`, and would have gone on. An observation as good as an end: where most requests
  /// end so, the limits are what there is to know.
  void limited(std::int32_t tokens);
  /// It was cut off after `tokens` by something that tells nothing of requests like it: not an observation.
  void censored(std::int32_t tokens);
  void live_enters(std::int32_t bin) { ++live_[static_cast<std::size_t>(bin)]; }
  void live_moves(std::int32_t from, std::int32_t to) {
    --live_[static_cast<std::size_t>(from)];
    ++live_[static_cast<std::size_t>(to)];
  }
  void live_leaves(std::int32_t bin) { --live_[static_cast<std::size_t>(bin)]; }

  /// P(X in bin i | X > edge(i)): Kaplan-Meier, the live requests as censored where they are. A bin in which no
  /// request was at risk, without a prior, has hazard 0.
  Hazards hazards() const;
  /// The same with another prior, worth `prior_weight` observations.
  Hazards hazards(const Hazards& prior, double prior_weight) const;
  /// Ends and limits seen, not weighted.
  std::int64_t num_observed() const { return num_observed_; }

 private:
  void observe(std::array<double, LengthBins::kNum>& in, std::int32_t bin);

  double growth_;  // of the weight, per observation
  double prior_weight_;
  double weight_ = 1.0;  // of the next observation
  std::int64_t num_observed_ = 0;
  std::array<double, LengthBins::kNum> ended_{};
  std::array<double, LengthBins::kNum> censored_{};
  std::array<std::int32_t, LengthBins::kNum> live_{};
};

}  // namespace fastserve::sched
