#pragma once

#include <cstdint>

namespace fastserve::sched {

enum class PolicyKind : std::uint8_t { kSkipJoinMlfq, kMlfq, kFcfs, kPriority, kSrpt, kLearned, kSlo };
enum class PreemptionMode : std::uint8_t { kAuto, kSwap, kRecompute };

struct SchedulerConfig {
  PolicyKind policy = PolicyKind::kLearned;
  std::int32_t max_num_seqs = 256;  // B, batch slots
  std::int32_t max_num_batched_tokens = 2048;
  std::int32_t max_prefill_chunk_tokens = 512;
  std::int32_t max_model_len = 2048;  // prompt + output
  double starvation_limit_s = 3.0;    // alpha, until the first output
  double max_pause_s = 1.0;           // of a stream, where memory allows
  double ttft_slo_s = 0.0;            // of `slo`, for requests that bring no objectives; 0: none
  double tpot_slo_s = 0.0;
  double quantum_ratio = 2.0;
  double first_quantum_s = 0.0;  // 0: the latency model's shortest iteration
  std::int32_t num_levels = 0;   // 0: enough for the longest prefill
  // of `learned`: ended requests after which a length counts half, and those of a class before it goes by them
  double length_half_life = 128.0;
  std::int32_t min_length_observations = 1;
  PreemptionMode preemption_mode = PreemptionMode::kAuto;
  bool proactive_offload = true;
  bool write_through = true;
  std::int32_t reserve_iterations = 8;  // H of the watermark W
  /// Free blocks above W before anything is uploaded ahead of its turn, as a share of the device pool: what was just
  /// moved out for W must not come back at once.
  double upload_margin = 0.05;
  std::int32_t max_parks_per_request = 64;
  double thrash_parks_per_finish = 8.0;
  double block_bytes = 0.0;           // of one KV block, for the cost of a copy
  double offload_bytes_per_s = 10e9;  // link rates until measured, see set_link_rates
  double upload_bytes_per_s = 10e9;
};

/// Learned lengths decide the order, and max_pause_s bounds the pauses of streams.
constexpr bool learns(PolicyKind policy) { return policy == PolicyKind::kLearned || policy == PolicyKind::kSlo; }

/// Throws InvalidArgumentError naming the first field out of range.
void check_config(const SchedulerConfig& config);

}  // namespace fastserve::sched
