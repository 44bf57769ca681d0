#include "sched/requests/request_types.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace fastserve::sched {

const char* name_of(RequestState state) {
  static constexpr std::array<const char*, kNumRequestStates> kNames = {"waiting", "ready",     "running", "offloading",
                                                                        "parked",  "uploading", "finished"};
  return kNames[static_cast<std::size_t>(state)];
}

const char* name_of(FinishReason reason) {
  static constexpr std::array<const char*, 6> kNames = {"none", "stop", "length", "abort", "error", "deadline"};
  return kNames[static_cast<std::size_t>(reason)];
}

const char* name_of(Decision decision) {
  static constexpr std::array<const char*, 21> kNames = {"none",
                                                         "joined",
                                                         "started",
                                                         "promoted",
                                                         "demoted",
                                                         "blocked by memory",
                                                         "left out",
                                                         "offloaded",
                                                         "offloaded: already mirrored",
                                                         "dropped: recompute mode",
                                                         "dropped: recompute is cheaper",
                                                         "dropped: host pool full",
                                                         "dropped: no host pool",
                                                         "dropped: copy failed",
                                                         "dropped: nothing computed",
                                                         "uploaded on demand",
                                                         "uploaded ahead",
                                                         "copy failed",
                                                         "parked by caller",
                                                         "held",
                                                         "released"};
  return kNames[static_cast<std::size_t>(decision)];
}

void check_options(const RequestOptions& options) {
  const auto at_least = [](const char* name, std::int64_t value, std::int64_t low) {
    FS_REQUIRE(value >= low, name, " must be at least ", low, ", got ", value);
  };
  at_least("max_tokens", options.max_tokens, 1);
  at_least("min_tokens", options.min_tokens, 0);
  at_least("oracle_output_tokens", options.oracle_output_tokens, 0);
  FS_REQUIRE(!std::isnan(options.max_pause_s), "max_pause_s must be a number of seconds, 0 for the engine's, got ",
             options.max_pause_s);
  FS_REQUIRE(!std::isnan(options.ttft_slo_s), "ttft_slo_s must be a number of seconds, 0 for the engine's, got ",
             options.ttft_slo_s);
  FS_REQUIRE(!std::isnan(options.tpot_slo_s), "tpot_slo_s must be a number of seconds, 0 for the engine's, got ",
             options.tpot_slo_s);
  FS_REQUIRE(!std::isnan(options.deadline_s), "deadline_s must be a number of seconds, 0 for none, got ",
             options.deadline_s);
}

}  // namespace fastserve::sched
