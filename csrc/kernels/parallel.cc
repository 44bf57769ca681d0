#include "kernels/parallel.h"

#include "base/thread_pool.h"

namespace fastserve::kernels {

void parallel_run(ThreadPool& pool, std::int64_t count, std::int64_t grain, ParallelTask task, void* context) {
  pool.run(count, grain, task, context);
}

int num_threads(const ThreadPool& pool) { return pool.num_threads(); }

}  // namespace fastserve::kernels
