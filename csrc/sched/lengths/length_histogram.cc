#include "sched/lengths/length_histogram.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr double kPriorScaleTokens = 16.0;
constexpr double kLargestWeight = 1e9;  // then all are scaled down: doubles would run out

constexpr LengthHistogram::Hazards heavy_tail() {
  LengthHistogram::Hazards result{};
  for (std::int32_t bin = 0; bin + 1 < LengthBins::kNum; ++bin)
    result[static_cast<std::size_t>(bin)] =
        1.0 - (kPriorScaleTokens + LengthBins::edge(bin)) / (kPriorScaleTokens + LengthBins::edge(bin + 1));
  result.back() = 1.0;
  return result;
}

constexpr LengthHistogram::Hazards kHeavyTail = heavy_tail();

}  // namespace

LengthHistogram::LengthHistogram(double half_life, double prior_weight)
    : growth_(std::exp2(1.0 / half_life)), prior_weight_(prior_weight) {
  FS_REQUIRE(half_life > 0.0, "the half-life must be above 0 requests, got ", half_life);
}

void LengthHistogram::ended(std::int32_t tokens) { observe(ended_, LengthBins::of(std::max(tokens, 1) - 1)); }

void LengthHistogram::limited(std::int32_t tokens) { observe(censored_, LengthBins::of(std::max(tokens, 0))); }

void LengthHistogram::observe(std::array<double, LengthBins::kNum>& in, std::int32_t bin) {
  ++num_observed_;
  in[static_cast<std::size_t>(bin)] += weight_;
  weight_ *= growth_;
  if (weight_ < kLargestWeight) return;
  for (auto* const counts : {&ended_, &censored_})
    for (double& count : *counts) count /= weight_;
  weight_ = 1.0;
}

void LengthHistogram::censored(std::int32_t tokens) {
  censored_[static_cast<std::size_t>(LengthBins::of(std::max(tokens, 0)))] += weight_;
}

LengthHistogram::Hazards LengthHistogram::hazards() const { return hazards(kHeavyTail, prior_weight_); }

LengthHistogram::Hazards LengthHistogram::hazards(const Hazards& prior_hazards, double prior_weight) const {
  Hazards result{};
  double at_risk = 0.0;  // ends in this bin or later, censored later
  for (std::int32_t bin = LengthBins::kNum - 1; bin >= 0; --bin) {
    const auto i = static_cast<std::size_t>(bin);
    at_risk += ended_[i];
    const double prior = prior_weight * weight_;
    if (at_risk + prior > 0.0) result[i] = (ended_[i] + prior * prior_hazards[i]) / (at_risk + prior);
    at_risk += censored_[i] + live_[i] * weight_;
  }
  return result;
}

}  // namespace fastserve::sched
