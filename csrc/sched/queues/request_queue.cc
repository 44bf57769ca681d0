#include "sched/queues/request_queue.h"

namespace fastserve::sched {

std::size_t RequestQueue::next_run(const Request* after, PlaceMask places, std::span<Request*> run) const {
  std::size_t count = 0;
  for (Request* r = next(after, places); r && count < run.size(); r = next(r, places)) {
    if (count > 0 && !same_level(*run[0], *r)) break;
    run[count++] = r;
  }
  return count;
}

}  // namespace fastserve::sched
