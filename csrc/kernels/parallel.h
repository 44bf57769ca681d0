#pragma once

#include <cstdint>

#include "base/forward.h"

namespace fastserve::kernels {

/// task(context, begin, end) handles the items [begin, end).
using ParallelTask = void (*)(void* context, std::int64_t begin, std::int64_t end);

/// ThreadPool::run for the files compiled once per instruction set, which must not see the standard headers behind it.
void parallel_run(ThreadPool& pool, std::int64_t count, std::int64_t grain, ParallelTask task, void* context);
int num_threads(const ThreadPool& pool);

}  // namespace fastserve::kernels
