#include "sched/lengths/gittins.h"

#include <algorithm>
#include <cmath>

namespace fastserve::sched {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

/// Tokens the bin is wide; the open one as wide as it starts.
constexpr double width_of(std::int32_t bin) {
  return bin + 1 < LengthBins::kNum ? LengthBins::edge(bin + 1) - LengthBins::edge(bin) : LengthBins::edge(bin);
}

/// Tokens of a request that ends in the bin, on average: its lengths are taken as equally likely.
constexpr double length_in(std::int32_t bin) { return LengthBins::edge(bin) + (width_of(bin) + 1.0) / 2.0; }

double slope(double cost, double worth) { return worth > 0.0 ? cost / worth : kInfinite; }

}  // namespace

double mean_inverse_length(std::span<const double> hazards) {
  double sum = 0.0, survival = 1.0;
  for (std::int32_t bin = 0; bin < LengthBins::kNum; ++bin) {
    const double ends = bin + 1 < LengthBins::kNum ? survival * hazards[static_cast<std::size_t>(bin)] : survival;
    sum += ends / length_in(bin);
    survival -= ends;
  }
  return sum;
}

void GittinsIndex::rebuild(std::span<const double> hazards) {
  for (std::int32_t bin = 0; bin < LengthBins::kNum; ++bin) {
    const auto i = static_cast<std::size_t>(bin);
    const double width = width_of(bin);
    const double share = bin + 1 < LengthBins::kNum ? hazards[i] : 1.0;
    const Point& from = points_[i];
    const double ends = from.survival * share;  // P(X in this bin), evenly spread over its lengths
    points_[i + 1] = {.worth = from.worth + ends * weight_.of(length_in(bin)),
                      .cost = from.cost + width * from.survival - ends * (width - 1.0) / 2.0,
                      .survival = from.survival - ends};
  }
  // From the right: hull holds the corners of the lower convex hull of the points behind i, the nearest on top.
  std::array<std::int32_t, LengthBins::kNum + 1> hull{};
  std::int32_t size = 0;
  const auto between = [&](std::int32_t from, std::int32_t to) {
    const Point& a = points_[static_cast<std::size_t>(from)];
    const Point& b = points_[static_cast<std::size_t>(to)];
    return slope(b.cost - a.cost, b.worth - a.worth);
  };
  hull[static_cast<std::size_t>(size++)] = LengthBins::kNum;
  for (std::int32_t i = LengthBins::kNum - 1; i >= 0; --i) {
    while (size >= 2 &&
           between(i, hull[static_cast<std::size_t>(size - 1)]) >= between(i, hull[static_cast<std::size_t>(size - 2)]))
      --size;
    slopes_[static_cast<std::size_t>(i)] = between(i, hull[static_cast<std::size_t>(size - 1)]);
    hull[static_cast<std::size_t>(size++)] = i;
  }
}

GittinsIndex::Point GittinsIndex::at_length(std::int32_t tokens) const {
  const std::int32_t bin = LengthBins::of(tokens);
  const Point& from = points_[static_cast<std::size_t>(bin)];
  const Point& to = points_[static_cast<std::size_t>(bin) + 1];
  const double part = std::min(1.0, (tokens - LengthBins::edge(bin)) / width_of(bin));
  return {from.worth + part * (to.worth - from.worth), from.cost + part * (to.cost - from.cost),
          from.survival + part * (to.survival - from.survival)};
}

double GittinsIndex::index(std::int32_t bin, double prefill_tokens, std::int32_t max_tokens) const {
  const auto first = static_cast<std::size_t>(bin);
  const Point& from = points_[first];
  // Costs and worths of the curve count those that got this far by their share of all: so does the prefill.
  const double prefill = prefill_tokens * from.survival;
  double best = slopes_[first];
  if (prefill > 0.0) {
    best = kInfinite;
    for (std::size_t i = first + 1; i < points_.size(); ++i)
      best = std::min(best, slope(prefill + points_[i].cost - from.cost, points_[i].worth - from.worth));
  }
  if (max_tokens >= LengthBins::edge(LengthBins::kNum - 1)) return best;
  // Every request that reaches max_tokens finishes there, so this candidate dominates all later ones.
  const Point end = at_length(std::max(max_tokens, LengthBins::edge(bin) + 1));
  const double worth = end.worth - from.worth + end.survival * weight_.of(max_tokens);
  return std::min(best, slope(prefill + end.cost - from.cost, worth));
}

double GittinsIndex::quantile(double q) const {
  for (std::int32_t bin = 0; bin < LengthBins::kNum; ++bin) {
    const double before = points_[static_cast<std::size_t>(bin)].survival;
    const double after = points_[static_cast<std::size_t>(bin) + 1].survival;
    if (1.0 - after < q) continue;
    const double part = before > after ? (before - (1.0 - q)) / (before - after) : 1.0;
    return LengthBins::edge(bin) + part * width_of(bin);
  }
  return LengthBins::edge(LengthBins::kNum - 1);
}

}  // namespace fastserve::sched
