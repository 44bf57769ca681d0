#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/tensor_view.h"
#include "offload/block_checksums.h"
#include "offload/copy_runs.h"
#include "offload/host_arena.h"
#include "offload/offload_engine.h"
#include "offload/transfer_board.h"

namespace fastserve::offload {

/// Real copies between a KV cache in CPU memory, which plays the device, and the host arena: one worker thread per
/// direction.
class CpuOffloadEngine final : public OffloadEngine {
 public:
  /// `device_arena` [num_blocks, ...] is contiguous, on the cpu and outlives the engine; its blocks have the size of
  /// the host arena's. Throws InvalidArgumentError otherwise, or when the two share memory.
  CpuOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                   const OffloadOptions& options);
  ~CpuOffloadEngine() override;

  Ticket submit(const Transfer& transfer) override { return board_.submit(transfer); }
  std::optional<Ticket> try_submit(const Transfer& transfer) override { return board_.try_submit(transfer); }
  std::vector<Completion> poll() override { return board_.poll(); }
  bool wait_any(double timeout_s) override { return board_.wait_any(timeout_s); }
  std::optional<Completion> wait(Ticket ticket, double timeout_s) override { return board_.wait(ticket, timeout_s); }
  double link_bytes_per_s(Direction direction) const override { return board_.link_bytes_per_s(direction); }
  std::int64_t num_in_flight() const override { return board_.num_in_flight(); }
  DirectionCounters counters(Direction direction) const override { return board_.counters(direction); }
  std::int64_t num_verified() const override { return checksums_ ? checksums_->num_verified() : 0; }
  std::int64_t num_mismatches() const override { return checksums_ ? checksums_->num_mismatches() : 0; }
  std::int64_t block_bytes() const override { return host_arena_->block_bytes(); }
  FaultInjector& fault_injector() override { return fault_injector_; }
  void check_integrity() const override { board_.check_integrity(); }
  void close() override;

 private:
  void work(Direction direction);
  /// Copy and verify one transfer; never throws.
  CopyOutcome perform(const QueuedTransfer& transfer);
  void copy(Direction direction, const std::vector<CopyRun>& runs);
  void forget_targets(const QueuedTransfer& transfer);
  /// "" when every block arrived, else the first mismatch and how many there are.
  std::string verify(const QueuedTransfer& transfer);
  std::span<std::byte> device_block(std::int32_t block) const;

  const TensorView device_arena_;
  const std::shared_ptr<const HostArena> host_arena_;
  FaultInjector fault_injector_;
  std::optional<BlockChecksums> checksums_;  // present when options.verify_checksums
  TransferBoard board_;
  std::mutex close_mutex_;
  std::array<std::thread, kNumDirections> workers_;
};

}  // namespace fastserve::offload
