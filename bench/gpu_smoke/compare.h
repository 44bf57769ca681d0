#pragma once

#include <cstdint>
#include <span>

#include "facts.h"
#include "spec.h"

namespace fastserve::smoke {

/// Hold a kernel against the naive one (the naive one against the host): twice, over different garbage, for the same bits;
/// values that no token has written are NaN, memory around the output must stay as it is, and the workspace be left at zero.
/// The first difference is named by row, query, head, element, page, tile and bits.
Outcome compare(const AttentionSpec& spec);

/// Median time of a kernel with cold caches, and the rate at which it reads KV or multiplies.
Outcome time_kernel(const AttentionSpec& spec);

/// Values that are wrong, and the words for them.
struct Differences {
  std::int64_t count = 0;
  Facts facts;
};

/// Where `got` differs, over [num_tokens, num_q_heads, head_dim] values given as bits. Values of `expected` are as many, in
/// float; `allowed` is the greatest difference, and NaN always differs.
Differences find_differences(const AttentionSpec& spec, std::span<const std::uint32_t> got,
                             std::span<const float> expected, float allowed);

}  // namespace fastserve::smoke
