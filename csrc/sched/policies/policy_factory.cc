#include "sched/policies/policy_factory.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "sched/policies/fcfs.h"
#include "sched/policies/learned_policy.h"
#include "sched/policies/mlfq.h"
#include "sched/policies/slo_policy.h"
#include "sched/policies/srpt.h"

namespace fastserve::sched {
namespace {

/// The quanta start at the shortest iteration unless the configuration says otherwise, and cover the longest prefill.
MlfqConfig mlfq_of(const SchedulerConfig& config, const LatencyModel& latency, double max_pause_s) {
  return {.quanta_s = make_quanta(config.first_quantum_s.value_or(latency.decode_s(1, 1)), config.quantum_ratio,
                                  config.num_levels.value_or(0), latency.prefill_s(config.max_model_len, 0)),
          .starvation_limit_s = config.starvation_limit_s,
          .max_pause_s = max_pause_s,
          .start_share = 0.25,
          .batch_slots = config.max_num_seqs};
}

/// A policy that learns lengths: pauses have a limit of their own.
template <typename Made>
std::unique_ptr<Policy> make_learning(const SchedulerConfig& config, const LatencyModel& latency) {
  return std::make_unique<Made>(mlfq_of(config, latency, config.max_pause_s), config, latency);
}

/// With or without skip-join it knows one limit, as in the paper.
template <bool kSkipJoin>
std::unique_ptr<Policy> make_mlfq(const SchedulerConfig& config, const LatencyModel& latency) {
  MlfqConfig mlfq = mlfq_of(config, latency, config.starvation_limit_s);
  mlfq.skip_join = kSkipJoin;
  return std::make_unique<Mlfq>(std::move(mlfq));
}

/// A policy without settings.
template <typename Made, auto... kArguments>
std::unique_ptr<Policy> make_plain(const SchedulerConfig&, const LatencyModel&) {
  return std::make_unique<Made>(kArguments...);
}

std::unique_ptr<Policy> make_srpt(const SchedulerConfig&, const LatencyModel& latency) {
  return std::make_unique<Srpt>(latency.decode_s(1, 1));
}

constexpr std::array kPolicies{
    PolicyKind{.name = "learned", .make = make_learning<LearnedPolicy>},
    PolicyKind{.name = "slo", .has_objectives = true, .make = make_learning<SloPolicy>},
    PolicyKind{.name = "skip-join-mlfq", .make = make_mlfq<true>},
    PolicyKind{.name = "mlfq", .make = make_mlfq<false>},
    PolicyKind{.name = "fcfs", .make = make_plain<Fcfs, false>},
    PolicyKind{.name = "priority", .make = make_plain<Fcfs, true>},
    PolicyKind{.name = "srpt", .make = make_srpt},
};

}  // namespace

std::span<const PolicyKind> policies() { return kPolicies; }

const PolicyKind& default_policy() { return kPolicies.front(); }

const PolicyKind& policy_named(std::string_view name) {
  const auto* const found = std::ranges::find(kPolicies, name, &PolicyKind::name);
  if (found != kPolicies.end()) return *found;
  std::string names;
  for (const PolicyKind& each : kPolicies) names += (names.empty() ? "" : ", ") + std::string(each.name);
  detail::raise<InvalidArgumentError>("policy must be one of ", names, ", got ", name);
}

const PolicyKind& policy_with_objectives() { return *std::ranges::find(kPolicies, true, &PolicyKind::has_objectives); }

}  // namespace fastserve::sched
