#pragma once

#include <cmath>
#include <cstdint>

namespace fastserve::sched {

/// KV blocks per second of one kind of event, such as those that new requests ask for; forgets with a time constant.
class BlockRate {
 public:
  static constexpr double kTimeConstantS = 10.0;

  void add(std::int32_t num_blocks, double now_s) {
    blocks_ = decayed(now_s) + num_blocks;
    since_s_ = now_s;
  }
  double blocks_per_s(double now_s) const { return decayed(now_s) / kTimeConstantS; }

 private:
  double decayed(double now_s) const { return blocks_ * std::exp((since_s_ - now_s) / kTimeConstantS); }

  double blocks_ = 0.0;
  double since_s_ = 0.0;
};

}  // namespace fastserve::sched
