#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/tensor_view.h"
#include "offload/copy/block_checksums.h"
#include "offload/copy/copy_runs.h"
#include "offload/host/host_arena.h"
#include "offload/offload_engine.h"
#include "offload/transfer_board.h"

namespace fastserve::offload {

/// What the backends share: the board, one copy thread per direction, checksums and the copy hook. A backend says how
/// bytes move; it calls `start` at the end of its constructor and `close` in its destructor, since the threads call it.
class ThreadedOffloadEngine : public OffloadEngine {
 public:
  Ticket submit(const Transfer& transfer) override;
  std::optional<Ticket> try_submit(const Transfer& transfer) override;
  std::vector<Completion> poll() override { return board_.poll(); }
  bool wait_any(double timeout_s) override { return board_.wait_any(timeout_s); }
  std::optional<Completion> wait(Ticket ticket, double timeout_s) override { return board_.wait(ticket, timeout_s); }
  double link_bytes_per_s(Direction direction) const override { return board_.link_bytes_per_s(direction); }
  std::int64_t num_in_flight() const override { return board_.num_in_flight(); }
  DirectionCounters counters(Direction direction) const override { return board_.counters(direction); }
  std::int64_t num_verified() const override { return checksums_ ? checksums_->num_verified() : 0; }
  std::int64_t num_mismatches() const override { return checksums_ ? checksums_->num_mismatches() : 0; }
  std::int64_t block_bytes() const override { return host_arena_->block_bytes(); }
  std::string device_fault() const override;
  void set_copy_hook(std::shared_ptr<CopyHook> hook) override;
  void check_integrity() const override { board_.check_integrity(); }
  void close() override;

 protected:
  struct CopyReport {
    std::int64_t num_copies = 0;  // contiguous pieces
    double seconds = 0;
  };

  /// `device_arena` [num_blocks, ...] is contiguous and outlives the engine; its blocks have the size of the host
  /// arena's. Throws InvalidArgumentError otherwise. `prior_bytes_per_s` is the rate of the link before the first copy.
  ThreadedOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                        const OffloadOptions& options, double prior_bytes_per_s);

  /// Start the copy threads.
  void start();

  /// On the thread that submits: mark what the device has been given to do so far; `copy` must not begin before it.
  virtual OrderingPoint mark() { return {}; }
  /// A point that no copy will be given after all.
  virtual void drop(OrderingPoint) {}
  /// First thing on each copy thread.
  virtual void enter_thread() {}
  /// Copy whole runs, from the start after the ordering point to their end. When it throws, nothing of the transfer is
  /// still moving: the blocks are free for others at once.
  virtual CopyReport copy(Direction direction, const std::vector<CopyRun>& runs, OrderingPoint after) = 0;
  /// After a copy of `direction` failed, on its copy thread: whether the device is lost, and not this copy alone.
  virtual bool device_is_lost(Direction) { return false; }
  /// hash_block of each of the blocks of the device arena; called by the copy thread of `direction`, after `copy`.
  virtual std::vector<std::uint64_t> device_hashes(Direction direction, std::span<const std::int32_t> blocks) = 0;

  const TensorView device_arena_;
  const std::shared_ptr<const HostArena> host_arena_;

  /// First byte of a block of the device arena, in the device's address space.
  std::byte* device_block(std::int32_t block) const { return device_arena_.as<std::byte>() + block * block_bytes(); }

 private:
  void work(Direction direction);
  /// Copy and verify one transfer; never throws.
  CopyOutcome perform(const QueuedTransfer& transfer);
  /// Remember why the device is lost; the first reason stands.
  void note_device_fault(const std::string& reason);
  std::shared_ptr<CopyHook> copy_hook() const;
  void forget_targets(const QueuedTransfer& transfer);
  /// "" when every block arrived, else the first mismatch and how many there are.
  std::string verify(const QueuedTransfer& transfer);

  std::optional<BlockChecksums> checksums_;  // present when options.verify_checksums
  TransferBoard board_;
  mutable std::mutex fault_mutex_;
  std::string device_fault_;
  mutable std::mutex hook_mutex_;
  std::shared_ptr<CopyHook> hook_;
  std::mutex close_mutex_;
  std::array<std::thread, kNumDirections> workers_;
};

}  // namespace fastserve::offload
