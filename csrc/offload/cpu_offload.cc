#include "offload/cpu_offload.h"

#include <chrono>
#include <functional>
#include <utility>

#include "base/block_hash.h"
#include "base/error.h"
#include "offload/copy/stream_copy.h"

namespace fastserve::offload {
namespace {

constexpr double kPriorBytesPerS = 10e9;  // about what one core copies

bool overlap(const TensorView& tensor, const HostArena& arena) {
  const std::less<const std::byte*> before;
  const auto* tensor_begin = tensor.as<const std::byte>();
  const auto* tensor_end = tensor_begin + tensor.numel() * dtype_bytes(tensor.dtype);
  return before(tensor_begin, arena.data() + arena.num_bytes()) && before(arena.data(), tensor_end);
}

}  // namespace

CpuOffloadEngine::CpuOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                                   const OffloadOptions& options)
    : ThreadedOffloadEngine(device_arena, std::move(host_arena), options, kPriorBytesPerS) {
  require_cpu(device_arena_, "device_arena");
  FS_REQUIRE(!overlap(device_arena_, *host_arena_), "device_arena and host_arena must not share memory");
  start();
}

CpuOffloadEngine::~CpuOffloadEngine() { close(); }

ThreadedOffloadEngine::CopyReport CpuOffloadEngine::copy(Direction direction, const std::vector<CopyRun>& runs,
                                                         OrderingPoint) {
  const auto start = std::chrono::steady_clock::now();
  const bool to_host = direction == Direction::kDeviceToHost;
  for (const CopyRun& run : runs) {
    const auto num_bytes = static_cast<std::size_t>(run.num_blocks * block_bytes());
    const std::byte* source = to_host ? device_block(run.source_block) : host_arena_->block(run.source_block).data();
    std::byte* target = to_host ? host_arena_->block(run.target_block).data() : device_block(run.target_block);
    stream_copy(target, source, num_bytes);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {std::ssize(runs), elapsed.count()};
}

std::vector<std::uint64_t> CpuOffloadEngine::device_hashes(Direction, std::span<const std::int32_t> blocks) {
  std::vector<std::uint64_t> hashes;
  for (const std::int32_t block : blocks) {
    hashes.push_back(hash_block({device_block(block), static_cast<std::size_t>(block_bytes())}));
  }
  return hashes;
}

}  // namespace fastserve::offload
