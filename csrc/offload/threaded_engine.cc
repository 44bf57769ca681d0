#include "offload/threaded_engine.h"

#include <chrono>
#include <exception>
#include <utility>

#include "base/block_hash.h"
#include "base/error.h"

namespace fastserve::offload {
namespace {

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The board's limits, once the two arenas are known to fit each other.
TransferBoard::Limits checked_limits(const TensorView& device_arena, const HostArena* host_arena,
                                     const OffloadOptions& options, double prior_bytes_per_s) {
  FS_REQUIRE(host_arena != nullptr, "host_arena must not be null");
  require_contiguous(device_arena, "device_arena");
  FS_REQUIRE(device_arena.ndim >= 2 && device_arena.numel() > 0,
             "device_arena must be a non-empty tensor [num_blocks, ...], got ", device_arena.describe());
  const std::int64_t block_bytes = device_arena.numel() / device_arena.size(0) * dtype_bytes(device_arena.dtype);
  FS_REQUIRE(block_bytes == host_arena->block_bytes(), "the blocks of the two arenas must have one size, got ",
             block_bytes, " bytes (device_arena ", device_arena.describe(), ") and ", host_arena->block_bytes(),
             " bytes (host_arena)");
  return {.num_device_blocks = device_arena.size(0),
          .num_host_blocks = host_arena->num_blocks(),
          .block_bytes = block_bytes,
          .queue_capacity = options.queue_capacity,
          .prior_bytes_per_s = prior_bytes_per_s};
}

}  // namespace

ThreadedOffloadEngine::ThreadedOffloadEngine(const TensorView& device_arena,
                                             std::shared_ptr<const HostArena> host_arena, const OffloadOptions& options,
                                             double prior_bytes_per_s)
    : device_arena_(device_arena),
      host_arena_(std::move(host_arena)),
      board_(checked_limits(device_arena, host_arena_.get(), options, prior_bytes_per_s)) {
  if (options.verify_checksums) checksums_.emplace(host_arena_->num_blocks());
}

void ThreadedOffloadEngine::start() {
  try {
    for (const Direction direction : kDirections) {
      workers_[index_of(direction)] = std::thread([this, direction] { work(direction); });
    }
  } catch (...) {  // the second thread could not be started
    close();
    throw;
  }
}

void ThreadedOffloadEngine::close() {
  std::lock_guard lock(close_mutex_);
  board_.close();
  if (const auto hook = copy_hook()) hook->close();
  for (std::thread& worker : workers_) {
    if (worker.joinable()) worker.join();
  }
}

Ticket ThreadedOffloadEngine::submit(const Transfer& transfer) {
  const OrderingPoint after = mark();
  try {
    return board_.submit(transfer, after);
  } catch (...) {
    drop(after);
    throw;
  }
}

std::optional<Ticket> ThreadedOffloadEngine::try_submit(const Transfer& transfer) {
  const OrderingPoint after = mark();
  try {
    const auto ticket = board_.try_submit(transfer, after);
    if (!ticket) drop(after);
    return ticket;
  } catch (...) {
    drop(after);
    throw;
  }
}

void ThreadedOffloadEngine::work(Direction direction) {
  std::string broken;  // a thread that cannot reach its device fails every transfer, and says why
  try {
    enter_thread();
  } catch (const std::exception& error) {
    broken = error.what();
    note_device_fault(broken);
  }
  while (const QueuedTransfer* transfer = board_.take(direction)) {
    board_.complete(direction, broken.empty() ? perform(*transfer) : CopyOutcome{.error = broken});
  }
}

CopyOutcome ThreadedOffloadEngine::perform(const QueuedTransfer& transfer) {
  CopyOutcome outcome;
  const auto hook = copy_hook();
  const double start_s = now_s();
  double copy_start_s = start_s;
  try {
    if (checksums_) forget_targets(transfer);
    if (hook) hook->before_copy(transfer.direction);
    copy_start_s = now_s();
    const auto runs = coalesce(transfer.source_blocks, transfer.target_blocks);
    const CopyReport report = copy(transfer.direction, runs, transfer.after);
    const double copy_end_s = now_s();
    outcome.num_copies = report.num_copies;
    if (checksums_) outcome.error = verify(transfer);
    outcome.seconds = copy_start_s - start_s + report.seconds + now_s() - copy_end_s;
  } catch (const std::exception& error) {
    outcome.error = error.what();
    outcome.seconds = now_s() - start_s;
    if ((hook && hook->device_is_lost()) || device_is_lost(transfer.direction)) note_device_fault(outcome.error);
  }
  return outcome;
}

void ThreadedOffloadEngine::note_device_fault(const std::string& reason) {
  std::lock_guard lock(fault_mutex_);
  if (device_fault_.empty()) device_fault_ = reason;
}

void ThreadedOffloadEngine::set_copy_hook(std::shared_ptr<CopyHook> hook) {
  std::lock_guard lock(hook_mutex_);
  hook_ = std::move(hook);
}

std::shared_ptr<CopyHook> ThreadedOffloadEngine::copy_hook() const {
  std::lock_guard lock(hook_mutex_);
  return hook_;
}

std::string ThreadedOffloadEngine::device_fault() const {
  std::lock_guard lock(fault_mutex_);
  return device_fault_;
}

void ThreadedOffloadEngine::forget_targets(const QueuedTransfer& transfer) {
  if (transfer.direction != Direction::kDeviceToHost) return;
  for (const std::int32_t host_block : transfer.target_blocks) checksums_->forget(host_block);
}

std::string ThreadedOffloadEngine::verify(const QueuedTransfer& transfer) {
  const bool to_host = transfer.direction == Direction::kDeviceToHost;
  const auto hashes = device_hashes(transfer.direction, to_host ? transfer.source_blocks : transfer.target_blocks);
  std::string first_error;
  std::int64_t num_errors = 0;
  for (std::size_t i = 0; i < transfer.source_blocks.size(); ++i) {
    const std::int32_t device = to_host ? transfer.source_blocks[i] : transfer.target_blocks[i];
    const std::int32_t host = to_host ? transfer.target_blocks[i] : transfer.source_blocks[i];
    std::string error = to_host
                            ? checksums_->offload_ended(device, hashes[i], host, hash_block(host_arena_->block(host)))
                            : checksums_->upload_ended(device, hashes[i], host);
    if (!error.empty() && ++num_errors == 1) first_error = std::move(error);
  }
  if (num_errors > 1) first_error += " (and " + std::to_string(num_errors - 1) + " more blocks)";
  return first_error;
}

}  // namespace fastserve::offload
