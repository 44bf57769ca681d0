#pragma once

#include <cstddef>
#include <span>

#include "sched/plans/step_plan.h"

namespace fastserve::sched {

/// Bytes of a plan as `write_plan` writes it: at most 130 for a row, 4 for a block of a row, 16 for a token; 13 for a
/// transfer and 8 for a block that it moves.
std::size_t plan_bytes(const StepPlan& plan);

/// Write a plan for a process on this machine: step, length of each array, then the arrays, widest type first.
/// `out` has `plan_bytes` and begins at a multiple of 8.
void write_plan(const StepPlan& plan, std::span<std::byte> out);

/// Replace `plan` by what `write_plan` wrote, in the memory that it has. Throws InvalidArgumentError when the bytes are
/// none of a plan.
void read_plan(std::span<const std::byte> bytes, StepPlan& plan);

}  // namespace fastserve::sched
