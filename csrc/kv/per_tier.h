#pragma once

#include "kv/types.h"

namespace fastserve::kv {

constexpr Tier other_tier(Tier tier) { return tier == Tier::kDevice ? Tier::kHost : Tier::kDevice; }

/// One value for each tier.
template <typename T>
struct PerTier {
  T device;
  T host;

  constexpr T& operator[](Tier tier) { return tier == Tier::kDevice ? device : host; }
  constexpr const T& operator[](Tier tier) const { return tier == Tier::kDevice ? device : host; }
};

}  // namespace fastserve::kv
