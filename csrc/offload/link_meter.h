#pragma once

#include <algorithm>
#include <cstdint>

namespace fastserve::offload {

/// Rate of a link from the copies made over it. Bytes and seconds decay alike with every copy, so a large copy weighs
/// more than a small one and the fixed cost of small ones shows in proportion.
class LinkMeter {
 public:
  explicit LinkMeter(double prior_bytes_per_s) : prior_bytes_per_s_(prior_bytes_per_s) {}

  void add(std::int64_t bytes, double seconds) {
    bytes_ = kDecay * bytes_ + static_cast<double>(bytes);
    seconds_ = kDecay * seconds_ + std::max(seconds, kShortestCopyS);
  }

  double bytes_per_s() const { return bytes_ > 0 ? bytes_ / seconds_ : prior_bytes_per_s_; }

 private:
  static constexpr double kDecay = 0.8;
  static constexpr double kShortestCopyS = 1e-9;  // a clock may not see a tiny copy at all

  double prior_bytes_per_s_;
  double bytes_ = 0;
  double seconds_ = 0;
};

}  // namespace fastserve::offload
