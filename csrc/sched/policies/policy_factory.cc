#include "sched/policies/policy_factory.h"

#include <limits>
#include <utility>

#include "sched/policies/learned_policy.h"
#include "sched/policies/mlfq.h"
#include "sched/policies/slo_policy.h"
#include "sched/policies/srpt.h"

namespace fastserve::sched {

std::unique_ptr<Policy> make_policy(const SchedulerConfig& config, const LatencyModel& latency) {
  const double shortest_s = latency.decode_s(1, 1);
  if (config.policy == PolicyKind::kSrpt) return std::make_unique<Srpt>(shortest_s);
  const bool skip_join = config.policy == PolicyKind::kSkipJoinMlfq || learns(config.policy);
  MlfqConfig mlfq{.quanta_s = {std::numeric_limits<double>::infinity()},
                  .skip_join = skip_join,
                  .use_priority = config.policy != PolicyKind::kFcfs,
                  .starvation_limit_s = config.starvation_limit_s,
                  // Skip-join MLFQ and MLFQ know one limit, as in the paper.
                  .max_pause_s = learns(config.policy) ? config.max_pause_s : config.starvation_limit_s,
                  .start_share = 0.25,
                  .batch_slots = config.max_num_seqs};
  if (skip_join || config.policy == PolicyKind::kMlfq) {
    mlfq.quanta_s = make_quanta(config.first_quantum_s.value_or(shortest_s), config.quantum_ratio,
                                config.num_levels.value_or(0), latency.prefill_s(config.max_model_len, 0));
  }
  if (learns(config.policy)) {
    const LearnedConfig learned{.level_ratio = config.quantum_ratio,
                                .half_life = config.length_half_life,
                                .min_observations = config.min_length_observations};
    if (config.policy == PolicyKind::kLearned)
      return std::make_unique<LearnedPolicy>(std::move(mlfq), learned, latency);
    const SloConfig objectives{.ttft_s = config.ttft_slo_s.value_or(0.0), .tpot_s = config.tpot_slo_s.value_or(0.0)};
    return std::make_unique<SloPolicy>(std::move(mlfq), learned, objectives, latency);
  }
  return std::make_unique<Mlfq>(std::move(mlfq));
}

}  // namespace fastserve::sched
