#pragma once

#include <pybind11/pybind11.h>

#include "sched/lengths/length_class.h"
#include "sched/requests/request.h"

namespace fastserve::bindings {

/// StepPlan, StepEvents, statistics and enums of the scheduler.
void register_sched_values(pybind11::module_& module);

pybind11::dict to_dict(const sched::RequestView& view);
pybind11::dict to_dict(const sched::LengthClassView& view);

}  // namespace fastserve::bindings
