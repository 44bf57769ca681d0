#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kv/types.h"
#include "sched/batch_picker.h"
#include "sched/plans/step_plan.h"

namespace fastserve::sched {

/// Turns picks into the flat arrays of a StepPlan. Plans are reused once no other holder is left, so that a
/// step allocates nothing in the long run.
class PlanBuilder {
 public:
  explicit PlanBuilder(std::size_t max_plans_in_flight) : max_pooled_(max_plans_in_flight + kSparePlans) {}

  /// Rows with one token come first in `picks`.
  std::shared_ptr<StepPlan> build(StepId step, std::span<const Pick> picks, std::span<const kv::Transfer> transfers,
                                  std::int32_t block_size);

 private:
  std::shared_ptr<StepPlan> vacant();

  static constexpr std::size_t kSparePlans = 6;  // one being made, and a few that readers still look at

  std::size_t max_pooled_;
  std::vector<std::shared_ptr<StepPlan>> pool_;
};

}  // namespace fastserve::sched
