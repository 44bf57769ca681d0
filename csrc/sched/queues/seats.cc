#include "sched/queues/seats.h"

#include "base/error.h"

namespace fastserve::sched {

void Seats::check_integrity() const {
  for (const WaitList* const list : {&starts, &streams}) {
    const Request* last = nullptr;
    for (const Request* r = list->oldest; r; last = r, r = r->queue().newer) {
      FS_CHECK(r->queue().timed && r->queue().older == last && r->plans_in_flight() == 0 && !r->queue().starving &&
                   (r->num_outputs() > 0) == (list == &streams),
               "the list of waiting requests is broken at ", r->id);
      FS_CHECK(!last || last->queue().due_s <= r->queue().due_s, "request ", r->id,
               " waits longer than the one before it");
    }
    FS_CHECK(last == list->newest, "the list of waiting requests has a loose end");
  }
  for (const Request* r : own_pauses)
    FS_CHECK(r->queue().timed && r->plans_in_flight() == 0 && r->num_outputs() > 0 && !r->queue().starving, "request ",
             r->id, " does not belong to the streams that wait");
}

}  // namespace fastserve::sched
