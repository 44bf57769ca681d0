#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fastserve::sched {

struct PolicyKind;
const PolicyKind& default_policy();

enum class PreemptionMode : std::uint8_t { kAuto, kSwap, kRecompute };

/// How requests are scheduled, and the facts of the deployment that it depends on. The only place of defaults and limits;
/// the help of fastserve.config.SchedulerConfig says what they mean, and takes the defaults from here.
struct SchedulerConfig {
  const PolicyKind* policy = &default_policy();  // of policies(), see policy_factory.h
  std::int32_t max_num_seqs = 256;               // B, batch slots
  std::int32_t max_num_batched_tokens = 2048;
  std::int32_t max_prefill_chunk_tokens = 512;
  std::int32_t max_model_len = 2048;                // prompt + output
  std::int32_t num_stages = 1;                      // of the pipeline: plans that run one behind the other
  double starvation_limit_s = 3.0;                  // alpha, until the first output
  double max_pause_s = 1.0;                         // of a stream, where memory allows
  std::optional<double> ttft_slo_s = std::nullopt;  // of `slo`, for requests that bring no objectives
  std::optional<double> tpot_slo_s = std::nullopt;  // likewise
  double quantum_ratio = 2.0;
  std::optional<double> first_quantum_s = std::nullopt;   // default: the latency model's shortest iteration
  std::optional<std::int32_t> num_levels = std::nullopt;  // default: enough for the longest prefill
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

  /// One stage has its next plan made while it runs; of several, each has one.
  std::size_t max_plans_in_flight() const { return num_stages == 1 ? 2 : static_cast<std::size_t>(num_stages); }

  /// Throws InvalidArgumentError naming the first field out of its limits, or the fields that do not go together.
  void validate() const;
};

/// Values that a field may have.
struct Limits {
  double low;
  double high;
  bool above_low = false;  // low itself is none of them
  const char* unit = "";

  /// Throws InvalidArgumentError with the rule and the value.
  template <typename T>
  void check(const char* name, T value) const;
  template <typename T>
  void check(const char* name, const std::optional<T>& value) const {
    if (value) check(name, *value);
  }
};

/// Calls visit(name, member, limits) for each number, and visit(name, member) for each switch, of a SchedulerConfig.
template <typename Visit>
void for_each_setting(Visit&& visit) {
  using Config = SchedulerConfig;
  constexpr double kMostInt = 2147483647.0;
  constexpr double kMostTokens = 1 << 30;  // sums of two still fit 32 bits
  constexpr Limits kSeconds{.low = 0, .high = 1e9, .above_low = true, .unit = "seconds"};
  constexpr Limits kRate{.low = 0, .high = 1e18, .above_low = true, .unit = "bytes/s"};
  visit("max_num_seqs", &Config::max_num_seqs, Limits{1, kMostTokens});
  visit("max_num_batched_tokens", &Config::max_num_batched_tokens, Limits{1, kMostTokens});
  visit("max_prefill_chunk_tokens", &Config::max_prefill_chunk_tokens, Limits{1, kMostTokens});
  visit("starvation_limit_s", &Config::starvation_limit_s, kSeconds);
  visit("max_pause_s", &Config::max_pause_s, kSeconds);
  visit("ttft_slo_s", &Config::ttft_slo_s, kSeconds);
  visit("tpot_slo_s", &Config::tpot_slo_s, kSeconds);
  visit("quantum_ratio", &Config::quantum_ratio, Limits{1, 1024, true});
  visit("first_quantum_s", &Config::first_quantum_s, kSeconds);
  visit("num_levels", &Config::num_levels, Limits{1, 64});
  visit("length_half_life", &Config::length_half_life, Limits{0, 1e9, true, "requests"});
  visit("min_length_observations", &Config::min_length_observations, Limits{1, kMostInt, false, "requests"});
  visit("proactive_offload", &Config::proactive_offload);
  visit("write_through", &Config::write_through);
  visit("reserve_iterations", &Config::reserve_iterations, Limits{0, kMostTokens});
  visit("upload_margin", &Config::upload_margin, Limits{0, 1});
  visit("max_parks_per_request", &Config::max_parks_per_request, Limits{1, kMostInt});
  visit("thrash_parks_per_finish", &Config::thrash_parks_per_finish, Limits{0, 1e9, true});
  visit("max_model_len", &Config::max_model_len, Limits{2, kMostTokens, false, "tokens"});
  visit("num_stages", &Config::num_stages, Limits{1, 64});
  visit("block_bytes", &Config::block_bytes, Limits{0, 1e15, false, "bytes"});
  visit("offload_bytes_per_s", &Config::offload_bytes_per_s, kRate);
  visit("upload_bytes_per_s", &Config::upload_bytes_per_s, kRate);
}

/// The name of a mode as users write it, and back; throws InvalidArgumentError listing the names.
const char* name_of(PreemptionMode mode);
PreemptionMode preemption_mode_named(std::string_view name);

}  // namespace fastserve::sched
