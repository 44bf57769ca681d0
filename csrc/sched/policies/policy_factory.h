#pragma once

#include <memory>

#include "sched/latency_model.h"
#include "sched/policies/policy.h"
#include "sched/scheduler_config.h"

namespace fastserve::sched {

/// The policy of the configuration. `fcfs` and `priority` are the MLFQ with one level of infinite quantum, without and
/// with priority classes; `mlfq` is the MLFQ without skip-join. `latency` gives the quanta their defaults.
std::unique_ptr<Policy> make_policy(const SchedulerConfig& config, const LatencyModel& latency);

}  // namespace fastserve::sched
