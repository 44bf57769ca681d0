#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "sched/latency_model.h"
#include "sched/policies/policy.h"
#include "sched/scheduler_config.h"

namespace fastserve::sched {

/// A policy as users choose it.
struct PolicyKind {
  std::string_view name;
  bool has_objectives = false;  // ttft_slo_s and tpot_slo_s are its settings
  std::unique_ptr<Policy> (*make)(const SchedulerConfig& config, const LatencyModel& latency) = nullptr;
};

/// All there are; the first one is the default.
std::span<const PolicyKind> policies();
/// Throws InvalidArgumentError listing the names.
const PolicyKind& policy_named(std::string_view name);
/// The one that goes by objectives.
const PolicyKind& policy_with_objectives();

}  // namespace fastserve::sched
