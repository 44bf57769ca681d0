#include "offload/transfer_board.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"

namespace fastserve::offload {
namespace {

using Clock = std::chrono::steady_clock;

void require_timeout(double timeout_s) {
  FS_REQUIRE(timeout_s >= 0, "timeout_s must be a number of seconds >= 0 (infinity waits without limit), got ",
             timeout_s);
}

/// Wait until `ready`; false when `timeout_s` passed first.
template <typename Ready>
bool wait_for(std::condition_variable& event, std::unique_lock<std::mutex>& lock, double timeout_s, Ready ready) {
  constexpr double kForeverS = 1e9;  // beyond any clock arithmetic that could overflow
  if (timeout_s >= kForeverS) {
    event.wait(lock, ready);
    return true;
  }
  const auto timeout = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_s));
  return event.wait_until(lock, Clock::now() + timeout, ready);
}

}  // namespace

TransferBoard::TransferBoard(const Limits& limits)
    : limits_(limits),
      lanes_{Lane(limits.prior_bytes_per_s), Lane(limits.prior_bytes_per_s)},
      in_flight_(limits.num_device_blocks, limits.num_host_blocks) {
  FS_REQUIRE(limits.queue_capacity >= 1, "queue_capacity must be at least 1 transfer, got ", limits.queue_capacity);
}

Ticket TransferBoard::submit(const Transfer& transfer, OrderingPoint after) {
  in_flight_.require_valid(transfer);
  Lock lock(mutex_);
  Lane& own = lane(transfer.direction);
  own.has_room.wait(lock, [&] { return closed_ || std::ssize(own.queue) < limits_.queue_capacity; });
  return enqueue(transfer, after);
}

std::optional<Ticket> TransferBoard::try_submit(const Transfer& transfer, OrderingPoint after) {
  in_flight_.require_valid(transfer);
  Lock lock(mutex_);
  require_open();
  if (std::ssize(lane(transfer.direction).queue) >= limits_.queue_capacity) return std::nullopt;
  return enqueue(transfer, after);
}

void TransferBoard::require_open() const {
  FS_REQUIRE(!closed_, "the offload engine is closed; submit transfers before close()");
}

Ticket TransferBoard::enqueue(const Transfer& transfer, OrderingPoint after) {
  require_open();
  QueuedTransfer queued{Ticket{last_ticket_ + 1},
                        transfer.direction,
                        {transfer.source_blocks.begin(), transfer.source_blocks.end()},
                        {transfer.target_blocks.begin(), transfer.target_blocks.end()},
                        after};
  in_flight_.acquire(transfer);
  ++last_ticket_;
  unreported_.emplace(last_ticket_, false);
  const Ticket ticket = queued.ticket;
  lane(transfer.direction).queue.push_back(std::move(queued));
  lane(transfer.direction).has_work.notify_one();
  return ticket;
}

const QueuedTransfer* TransferBoard::take(Direction direction) {
  Lock lock(mutex_);
  Lane& own = lane(direction);
  FS_CHECK(!own.running, "a transfer ", direction_name(direction), " was taken while another one runs");
  own.has_work.wait(lock, [&] { return closed_ || !own.queue.empty(); });
  if (own.queue.empty()) return nullptr;
  own.running = true;
  return &own.queue.front();
}

void TransferBoard::complete(Direction direction, CopyOutcome outcome) {
  {
    Lock lock(mutex_);
    Lane& own = lane(direction);
    FS_CHECK(own.running, "no transfer ", direction_name(direction), " is running");
    finish(own, own.queue.front(), std::move(outcome));
    own.queue.pop_front();
    own.running = false;
    own.has_room.notify_one();
  }
  completed_.notify_all();
}

void TransferBoard::finish(Lane& lane, const QueuedTransfer& transfer, CopyOutcome outcome) {
  in_flight_.release(transfer.view());
  const auto num_blocks = static_cast<std::int64_t>(transfer.source_blocks.size());
  const std::int64_t bytes = num_blocks * limits_.block_bytes;
  const bool ok = outcome.error.empty();
  ++lane.counters.num_transfers;
  if (ok) {
    lane.counters.num_blocks += num_blocks;
    lane.counters.num_copies += outcome.num_copies;
    lane.counters.bytes += bytes;
    if (bytes > 0) lane.meter.add(bytes, outcome.seconds);
  } else {
    ++lane.counters.num_failed;
  }
  completions_.push_back({transfer.ticket, transfer.direction, ok, std::move(outcome.error), bytes, outcome.seconds});
}

void TransferBoard::close() {
  {
    Lock lock(mutex_);
    closed_ = true;
    for (const Direction direction : kDirections) {
      Lane& own = lane(direction);
      const auto first_queued = own.queue.begin() + (own.running ? 1 : 0);
      for (auto queued = first_queued; queued != own.queue.end(); ++queued) {
        finish(own, *queued, {.error = "cancelled: the offload engine was closed before the copy started"});
      }
      own.queue.resize(own.running ? 1 : 0);  // keeps the running front where its worker sees it
      own.has_work.notify_all();
      own.has_room.notify_all();
    }
  }
  completed_.notify_all();
}

std::vector<Completion> TransferBoard::poll() {
  std::lock_guard lock(mutex_);
  std::vector<Completion> reported;
  std::deque<Completion> claimed;
  for (Completion& completion : completions_) {
    const auto entry = unreported_.find(static_cast<std::int64_t>(completion.ticket));
    if (entry->second) {
      claimed.push_back(std::move(completion));
    } else {
      unreported_.erase(entry);
      reported.push_back(std::move(completion));
    }
  }
  completions_ = std::move(claimed);
  return reported;
}

bool TransferBoard::has_unclaimed_completion() const {
  return std::any_of(completions_.begin(), completions_.end(), [&](const Completion& completion) {
    return !unreported_.at(static_cast<std::int64_t>(completion.ticket));
  });
}

bool TransferBoard::wait_any(double timeout_s) {
  require_timeout(timeout_s);
  Lock lock(mutex_);
  wait_for(completed_, lock, timeout_s, [&] { return unreported_.empty() || has_unclaimed_completion(); });
  return has_unclaimed_completion();
}

std::optional<Completion> TransferBoard::wait(Ticket ticket, double timeout_s) {
  require_timeout(timeout_s);
  Lock lock(mutex_);
  const auto number = static_cast<std::int64_t>(ticket);
  const auto entry = unreported_.find(number);
  FS_REQUIRE(entry != unreported_.end(), "ticket ", number,
             number >= 1 && number <= last_ticket_ ? " was reported already; each completion is reported once"
                                                   : " was never given out by this engine");
  FS_REQUIRE(!entry->second, "ticket ", number, " is waited for by another thread; one may wait");
  entry->second = true;  // poll() leaves it to us
  auto found = completions_.end();
  const bool ready = wait_for(completed_, lock, timeout_s, [&] {
    found = std::find_if(completions_.begin(), completions_.end(),
                         [&](const Completion& completion) { return completion.ticket == ticket; });
    return found != completions_.end();
  });
  if (!ready) {
    unreported_.at(number) = false;
    return std::nullopt;
  }
  Completion completion = std::move(*found);
  completions_.erase(found);
  unreported_.erase(number);
  if (unreported_.empty()) completed_.notify_all();  // wait_any has nothing left to wait for
  return completion;
}

double TransferBoard::link_bytes_per_s(Direction direction) const {
  std::lock_guard lock(mutex_);
  return lane(direction).meter.bytes_per_s();
}

std::int64_t TransferBoard::num_in_flight() const {
  std::lock_guard lock(mutex_);
  return std::ssize(unreported_);
}

DirectionCounters TransferBoard::counters(Direction direction) const {
  std::lock_guard lock(mutex_);
  return lane(direction).counters;
}

void TransferBoard::check_integrity() const {
  std::lock_guard lock(mutex_);
  InFlightBlocks recount = in_flight_.empty_copy();
  std::int64_t num_queued = 0;
  std::int64_t num_ended = 0;
  for (const Direction direction : kDirections) {
    const Lane& own = lane(direction);
    const auto size = std::ssize(own.queue);
    FS_CHECK(size <= limits_.queue_capacity, size, " transfers in a queue of ", limits_.queue_capacity);
    FS_CHECK(!own.running || size > 0, "a transfer ", direction_name(direction), " runs but none is queued");
    FS_CHECK(!closed_ || size <= (own.running ? 1 : 0), size, " transfers queued in a closed engine");
    FS_CHECK(std::is_sorted(own.queue.begin(), own.queue.end(),
                            [](const auto& a, const auto& b) { return a.ticket < b.ticket; }),
             "queue ", direction_name(direction), " is out of order");
    for (const QueuedTransfer& queued : own.queue) recount.acquire(queued.view());
    num_queued += size;
    num_ended += own.counters.num_transfers;
  }
  FS_CHECK(recount == in_flight_, "block uses differ from the transfers in flight");
  FS_CHECK(num_queued + std::ssize(completions_) == std::ssize(unreported_), num_queued, " queued and ",
           completions_.size(), " completed transfers, but ", unreported_.size(), " unreported tickets");
  FS_CHECK(num_queued + num_ended == last_ticket_, last_ticket_, " tickets given out, ", num_queued, " queued and ",
           num_ended, " ended");
  for (const Completion& completion : completions_) {
    FS_CHECK(unreported_.contains(static_cast<std::int64_t>(completion.ticket)), "ticket ",
             static_cast<std::int64_t>(completion.ticket), " completed twice");
  }
}

}  // namespace fastserve::offload
