#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "offload/in_flight_blocks.h"
#include "offload/link_meter.h"
#include "offload/transfer.h"

namespace fastserve::offload {

/// A transfer with ids of its own.
struct QueuedTransfer {
  Ticket ticket{};
  Direction direction = Direction::kDeviceToHost;
  std::vector<std::int32_t> source_blocks;
  std::vector<std::int32_t> target_blocks;
  OrderingPoint after{};  // the copy must not begin before it

  Transfer view() const { return {direction, source_blocks, target_blocks}; }
};

/// How a backend's copy went.
struct CopyOutcome {
  std::string error = {};  // empty when ok
  std::int64_t num_copies = 0;
  double seconds = 0;
};

/// The bookkeeping every backend shares: a bounded queue per direction, tickets, block uses, completions and those who
/// wait for them. Copies nothing and owns no thread; the methods of OffloadEngine of the same names are specified
/// there.
///
/// Life of a transfer: queued -> running (`take`, front of its queue) -> completed (`complete` or cancelled by `close`)
/// -> reported (`poll` or `wait`). Its blocks are in use until it is completed. Thread-safe: one mutex, never held over
/// a copy.
class TransferBoard {
 public:
  struct Limits {
    std::int64_t num_device_blocks = 0;
    std::int64_t num_host_blocks = 0;
    std::int64_t block_bytes = 0;
    std::int64_t queue_capacity = 0;
    double prior_bytes_per_s = 0;
  };

  explicit TransferBoard(const Limits& limits);

  Ticket submit(const Transfer& transfer, OrderingPoint after = {});
  std::optional<Ticket> try_submit(const Transfer& transfer, OrderingPoint after = {});
  std::vector<Completion> poll();
  bool wait_any(double timeout_s);
  std::optional<Completion> wait(Ticket ticket, double timeout_s);

  /// For the worker of `direction`: wait for the next transfer and mark it running; null once the board is closed. The
  /// transfer stays valid until `complete`, which the worker calls before it takes another.
  const QueuedTransfer* take(Direction direction);
  void complete(Direction direction, CopyOutcome outcome);

  double link_bytes_per_s(Direction direction) const;
  std::int64_t num_in_flight() const;
  DirectionCounters counters(Direction direction) const;
  void check_integrity() const;
  /// Refuse new transfers and cancel the queued ones; running ones go on until their `complete`.
  void close();

 private:
  struct Lane {
    std::deque<QueuedTransfer> queue;  // the running transfer, if any, is its front
    bool running = false;
    LinkMeter meter;
    DirectionCounters counters;
    std::condition_variable has_work;
    std::condition_variable has_room;

    explicit Lane(double prior_bytes_per_s) : meter(prior_bytes_per_s) {}
  };
  using Lock = std::unique_lock<std::mutex>;

  Lane& lane(Direction direction) { return lanes_[index_of(direction)]; }
  const Lane& lane(Direction direction) const { return lanes_[index_of(direction)]; }
  void require_open() const;
  Ticket enqueue(const Transfer& transfer, OrderingPoint after);  // with the mutex held, room in the queue
  /// Move a transfer of the lane (its front, or its back when cancelled) to the completions, with the mutex held.
  void finish(Lane& lane, const QueuedTransfer& transfer, CopyOutcome outcome);
  bool has_unclaimed_completion() const;

  const Limits limits_;
  mutable std::mutex mutex_;
  std::condition_variable completed_;  // a completion was added, or the board was closed
  std::array<Lane, kNumDirections> lanes_;
  InFlightBlocks in_flight_;
  std::deque<Completion> completions_;                 // not reported yet, oldest first
  std::unordered_map<std::int64_t, bool> unreported_;  // ticket -> a thread in wait() claims it
  std::int64_t last_ticket_ = 0;
  bool closed_ = false;
};

}  // namespace fastserve::offload
