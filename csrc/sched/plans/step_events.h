#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastserve::sched {

/// What happened since the last take_events(): one entry per token and per end of a request, in the order of happening.
/// A prefill chunk that yields no token is no event.
struct StepEvents {
  std::vector<std::int64_t> request_ids;
  std::vector<std::int32_t> sample_indices;  // entry of the committed step's sampling arrays, -1 when none
  std::vector<std::int32_t> token_ids;       // -1: no token
  std::vector<std::uint8_t> finish_reasons;  // FinishReason, kNone while it goes on
  std::vector<std::int32_t> num_cached_tokens;

  void reserve(std::size_t count) {
    request_ids.reserve(count);
    sample_indices.reserve(count);
    token_ids.reserve(count);
    finish_reasons.reserve(count);
    num_cached_tokens.reserve(count);
  }
};

}  // namespace fastserve::sched
