#include "offload/cpu_offload.h"

#include <chrono>
#include <exception>
#include <functional>
#include <utility>

#include "base/block_hash.h"
#include "base/error.h"
#include "offload/stream_copy.h"

namespace fastserve::offload {
namespace {

constexpr double kPriorBytesPerS = 10e9;  // about what one core copies

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool overlap(const TensorView& tensor, const HostArena& arena) {
  const std::less<const std::byte*> before;
  const auto* tensor_begin = tensor.as<const std::byte>();
  const auto* tensor_end = tensor_begin + tensor.numel() * dtype_bytes(tensor.dtype);
  return before(tensor_begin, arena.data() + arena.num_bytes()) && before(arena.data(), tensor_end);
}

/// The board's limits, once the two arenas are known to fit each other.
TransferBoard::Limits checked_limits(const TensorView& device_arena, const HostArena* host_arena,
                                     const OffloadOptions& options) {
  FS_REQUIRE(host_arena != nullptr, "host_arena must not be null");
  require_cpu(device_arena, "device_arena");
  require_contiguous(device_arena, "device_arena");
  FS_REQUIRE(device_arena.ndim >= 2 && device_arena.numel() > 0,
             "device_arena must be a non-empty tensor [num_blocks, ...], got ", device_arena.describe());
  const std::int64_t block_bytes =
      device_arena.numel() / device_arena.size(0) * dtype_bytes(device_arena.dtype);
  FS_REQUIRE(block_bytes == host_arena->block_bytes(), "the blocks of the two arenas must have one size, got ",
             block_bytes, " bytes (device_arena ", device_arena.describe(), ") and ", host_arena->block_bytes(),
             " bytes (host_arena)");
  FS_REQUIRE(!overlap(device_arena, *host_arena), "device_arena and host_arena must not share memory");
  return {.num_device_blocks = device_arena.size(0),
          .num_host_blocks = host_arena->num_blocks(),
          .block_bytes = block_bytes,
          .queue_capacity = options.queue_capacity,
          .prior_bytes_per_s = kPriorBytesPerS};
}

}  // namespace

CpuOffloadEngine::CpuOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                                   const OffloadOptions& options)
    : device_arena_(device_arena),
      host_arena_(std::move(host_arena)),
      board_(checked_limits(device_arena, host_arena_.get(), options)) {
  if (options.verify_checksums) checksums_.emplace(host_arena_->num_blocks());
  try {
    for (const Direction direction : kDirections) {
      workers_[index_of(direction)] = std::thread([this, direction] { work(direction); });
    }
  } catch (...) {  // the second thread could not be started
    close();
    throw;
  }
}

CpuOffloadEngine::~CpuOffloadEngine() { close(); }

void CpuOffloadEngine::close() {
  std::lock_guard lock(close_mutex_);
  board_.close();
  fault_injector_.stop_delays();
  for (std::thread& worker : workers_) {
    if (worker.joinable()) worker.join();
  }
}

void CpuOffloadEngine::work(Direction direction) {
  while (const QueuedTransfer* transfer = board_.take(direction)) board_.complete(direction, perform(*transfer));
}

CopyOutcome CpuOffloadEngine::perform(const QueuedTransfer& transfer) {
  CopyOutcome outcome;
  const double start_s = now_s();
  try {
    if (checksums_) forget_targets(transfer);
    fault_injector_.before_copy(transfer.direction);
    const auto runs = coalesce(transfer.source_blocks, transfer.target_blocks);
    copy(transfer.direction, runs);
    outcome.num_copies = std::ssize(runs);
    if (checksums_) outcome.error = verify(transfer);
  } catch (const std::exception& error) {
    outcome.error = error.what();
  }
  outcome.seconds = now_s() - start_s;
  return outcome;
}

void CpuOffloadEngine::copy(Direction direction, const std::vector<CopyRun>& runs) {
  const bool to_host = direction == Direction::kDeviceToHost;
  for (const CopyRun& run : runs) {
    const auto num_bytes = static_cast<std::size_t>(run.num_blocks * block_bytes());
    const auto source = to_host ? device_block(run.source_block) : host_arena_->block(run.source_block);
    const auto target = to_host ? host_arena_->block(run.target_block) : device_block(run.target_block);
    stream_copy(target.data(), source.data(), num_bytes);
  }
}

void CpuOffloadEngine::forget_targets(const QueuedTransfer& transfer) {
  if (transfer.direction != Direction::kDeviceToHost) return;
  for (const std::int32_t host_block : transfer.target_blocks) checksums_->forget(host_block);
}

std::string CpuOffloadEngine::verify(const QueuedTransfer& transfer) {
  const bool to_host = transfer.direction == Direction::kDeviceToHost;
  std::string first_error;
  std::int64_t num_errors = 0;
  for (std::size_t i = 0; i < transfer.source_blocks.size(); ++i) {
    const std::int32_t device = to_host ? transfer.source_blocks[i] : transfer.target_blocks[i];
    const std::int32_t host = to_host ? transfer.target_blocks[i] : transfer.source_blocks[i];
    const std::uint64_t device_hash = hash_block(device_block(device));
    std::string error =
        to_host ? checksums_->offload_ended(device, device_hash, host, hash_block(host_arena_->block(host)))
                : checksums_->upload_ended(device, device_hash, host);
    if (!error.empty() && ++num_errors == 1) first_error = std::move(error);
  }
  if (num_errors > 1) first_error += " (and " + std::to_string(num_errors - 1) + " more blocks)";
  return first_error;
}

std::span<std::byte> CpuOffloadEngine::device_block(std::int32_t block) const {
  return {device_arena_.as<std::byte>() + block * block_bytes(), static_cast<std::size_t>(block_bytes())};
}

}  // namespace fastserve::offload
