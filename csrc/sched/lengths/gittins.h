#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "sched/lengths/length_bins.h"

namespace fastserve::sched {

/// What a finished request of x tokens is worth: flat + inverse / x. {1, 0} makes the index that of mean latency, {0,
/// 1} that of mean normalised latency (seconds per token).
struct LengthWeight {
  double flat = 0.0;
  double inverse = 1.0;
  double of(double tokens) const { return flat + inverse / tokens; }
};

/// E[1 / X] of the lengths with these hazards, [LengthBins::kNum]: what a second of delay to a request adds to the mean
/// normalised latency, seconds per token.
double mean_inverse_length(std::span<const double> hazards);

/// The Gittins index of a request by the tokens it has produced, for output lengths X of a known distribution:
///
///   G(a) = min over d > 0 of (p + E[min(X - a, d) | X > a]) / E[w(X) 1{X <= a + d} | X > a]
///
/// the least cost per worth at which some of the next d tokens can be bought; the smallest G runs first. p is the
/// prefill still to do. Everything is counted in tokens of decoding: seconds are those times the seconds per token,
/// which are the same for every request of a batch, so the order is that of the seconds.
///
/// With A(a) = E[min(X, a)] and W(a) = E[w(X) 1{X <= a}], G(a) for p = 0 is the least slope from (W(a), A(a)) to a
/// later point of that curve, which is the slope of its lower convex hull: all of them cost one pass. Source: Gittins
/// (1979); Scully, Grosof, Harchol-Balter (2020) for many servers.
class GittinsIndex {
 public:
  static constexpr std::int32_t kNoLimit = std::numeric_limits<std::int32_t>::max();

  explicit GittinsIndex(LengthWeight weight = {}) : weight_(weight) {}

  /// hazards[i] = P(X in bin i | X > edge(i)), [LengthBins::kNum]; the last one counts as 1.
  void rebuild(std::span<const double> hazards);
  void rebuild(std::span<const double> hazards, LengthWeight weight) {
    weight_ = weight;
    rebuild(hazards);
  }

  /// G at the lower edge of `bin`; `prefill_tokens` = p over the seconds per token; no output is longer than
  /// `max_tokens`, where it ends for certain. O(1) without prefill, else O(bins). Infinite when nothing can finish.
  double index(std::int32_t bin, double prefill_tokens = 0.0, std::int32_t max_tokens = kNoLimit) const;

  /// P(X > edge(bin)).
  double survival(std::int32_t bin) const { return points_[static_cast<std::size_t>(bin)].survival; }
  /// The length that a share `q` of the requests does not exceed, interpolated within its bin.
  double quantile(double q) const;

 private:
  struct Point {
    double worth = 0.0;     // W
    double cost = 0.0;      // A
    double survival = 1.0;  // P(X > a)
  };
  Point at_length(std::int32_t tokens) const;

  LengthWeight weight_;
  std::array<Point, LengthBins::kNum + 1> points_{};  // at the edges; the last one stands where the last bin ends
  std::array<double, LengthBins::kNum> slopes_{};     // G with p = 0
};

}  // namespace fastserve::sched
