#include "offload/cuda/cuda_offload.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "base/block_hash.h"
#include "base/cuda_check.h"
#include "offload/cuda/fragment_copy.h"

namespace fastserve::offload {
namespace {

constexpr double kPriorBytesPerS = 20e9;  // a PCIe 4 x16 link, roughly; until the first copy
constexpr std::int64_t kMaxPieceBytes = std::int64_t{16} << 20;
constexpr std::size_t kMaxGroupPieces = 512;
constexpr std::size_t kMostGroups = 4;  // queued and not ended: a full launch queue would block
constexpr std::int64_t kFragmentBytes = std::int64_t{32} << 10;
constexpr std::size_t kLeastFragments = 16;  // fewer are as fast one by one
constexpr std::size_t kMostHashes = 512;     // blocks hashed on the device at once

int checked_device(const TensorView& device_arena, const HostArena& host_arena, const OffloadOptions& options) {
  FS_REQUIRE(device_arena.device == DeviceType::kCuda, "device_arena must be on a GPU, got ", device_arena.describe());
  FS_REQUIRE(host_arena.pinned() || options.allow_pageable,
             "host_arena must be page-locked (pin=True): copies of ordinary memory block the host and run at a fraction"
             " of the link; pass allow_pageable=True to accept that");
  return device_arena.device_index;
}

/// The device can read and write page-locked memory of the host at the address that the host uses.
bool maps_host_memory(int device) {
  int mapped = 0;
  FS_CUDA(cudaDeviceGetAttribute(&mapped, cudaDevAttrCanUseHostPointerForRegisteredMem, device));
  return mapped != 0;
}

/// Waits for all that a stream was given, whatever the way out of the scope: blocks must not be free while they move.
class StreamDrain {
 public:
  explicit StreamDrain(cudaStream_t stream) : stream_(stream) {}
  ~StreamDrain() { (void)cudaStreamSynchronize(stream_); }
  StreamDrain(const StreamDrain&) = delete;
  StreamDrain& operator=(const StreamDrain&) = delete;

 private:
  cudaStream_t stream_;
};

}  // namespace

CudaOffloadEngine::CudaOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                                     const OffloadOptions& options)
    : ThreadedOffloadEngine(device_arena, std::move(host_arena), options, kPriorBytesPerS),
      device_(checked_device(device_arena_, *host_arena_, options)),
      compute_stream_(reinterpret_cast<cudaStream_t>(options.compute_stream)),
      hash_on_device_(options.hash_on_device),
      batch_call_(options.batch_copies) {
  const CudaDeviceScope scope(device_);
  fragments_by_kernel_ = host_arena_->pinned() && maps_host_memory(device_);
  std::size_t hashing_bytes = 0;
  if (options.verify_checksums) {
    hashing_bytes =
        hash_on_device_ != nullptr ? kMostHashes * sizeof(std::int64_t) : static_cast<std::size_t>(block_bytes());
  }
  for (auto& lane : lanes_) lane = std::make_unique<Lane>(hashing_bytes);
  start();
}

CudaOffloadEngine::~CudaOffloadEngine() { close(); }

OrderingPoint CudaOffloadEngine::mark() {
  const CudaDeviceScope scope(device_);
  PooledEvent event(order_events_);
  FS_CUDA(cudaEventRecord(event.get(), compute_stream_));
  return OrderingPoint{reinterpret_cast<std::uintptr_t>(event.release())};
}

void CudaOffloadEngine::drop(OrderingPoint point) {
  order_events_.give_back(reinterpret_cast<cudaEvent_t>(static_cast<std::uintptr_t>(point)));
}

void CudaOffloadEngine::enter_thread() { FS_CUDA(cudaSetDevice(device_)); }

ThreadedOffloadEngine::CopyReport CudaOffloadEngine::copy(Direction direction, const std::vector<CopyRun>& runs,
                                                          OrderingPoint after) {
  const cudaStream_t stream = lane(direction).stream.get();
  const PooledEvent ordered(order_events_, reinterpret_cast<cudaEvent_t>(static_cast<std::uintptr_t>(after)));
  if (runs.empty()) return {};
  const PooledEvent begin(timing_events_);
  const PooledEvent end(timing_events_);
  std::deque<PooledEvent> queued;   // one behind each group of pieces that may still be moving
  const StreamDrain drain(stream);  // before the events go back to their pools
  const PieceLimits limits{.max_piece_bytes = kMaxPieceBytes, .host_boundary_bytes = HostArena::kPinnedRangeBytes};
  const auto pieces = cut_runs(direction, runs, block_bytes(), limits);
  FS_CUDA(cudaStreamWaitEvent(stream, ordered.get(), 0));
  FS_CUDA(cudaEventRecord(begin.get(), stream));
  queue_pieces(direction, pieces, queued);
  FS_CUDA(cudaEventRecord(end.get(), stream));
  FS_CUDA(cudaEventSynchronize(end.get()));
  float milliseconds = 0;
  FS_CUDA(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
  return {std::ssize(pieces), static_cast<double>(milliseconds) * 1e-3};
}

void CudaOffloadEngine::queue_pieces(Direction direction, std::span<const CopyPiece> pieces,
                                     std::deque<PooledEvent>& queued) {
  const cudaStream_t stream = lane(direction).stream.get();
  while (!pieces.empty()) {
    const auto group = pieces.first(group_length(pieces, kMaxPieceBytes, kMaxGroupPieces));
    pieces = pieces.subspan(group.size());
    if (queued.size() == kMostGroups) {
      FS_CUDA(cudaEventSynchronize(queued.front().get()));
      queued.pop_front();
    }
    queue_group(direction, group);
    FS_CUDA(cudaEventRecord(queued.emplace_back(order_events_).get(), stream));
  }
}

void CudaOffloadEngine::queue_group(Direction direction, std::span<const CopyPiece> group) {
  const auto is_fragment = [](const CopyPiece& piece) { return piece.num_bytes < kFragmentBytes; };
  if (std::ranges::all_of(group, is_fragment) && fragments_by_kernel_ && group.size() >= kLeastFragments) {
    queue_fragments(direction, group);
  } else {
    queue_batch(direction, group);
  }
}

void CudaOffloadEngine::queue_fragments(Direction direction, std::span<const CopyPiece> group) {
  const bool to_host = direction == Direction::kDeviceToHost;
  std::byte* const device = device_block(0);
  std::byte* const host = host_arena_->data();
  while (!group.empty()) {
    FragmentList list;
    list.count = static_cast<int>(std::min<std::size_t>(group.size(), kMaxFragments));
    for (int i = 0; i < list.count; ++i) {
      const CopyPiece& piece = group[static_cast<std::size_t>(i)];
      std::byte* const on_device = device + piece.device_offset;
      std::byte* const on_host = host + piece.host_offset;
      list.fragments[i] = {to_host ? on_host : on_device, to_host ? on_device : on_host, piece.num_bytes};
    }
    launch_fragment_copy(list, lane(direction).stream.get());
    group = group.subspan(static_cast<std::size_t>(list.count));
  }
}

void CudaOffloadEngine::queue_batch(Direction direction, std::span<const CopyPiece> group) {
  if (group.size() > 1 && batch_call_ && try_batch_call(direction, group)) return;
  const bool to_host = direction == Direction::kDeviceToHost;
  for (const CopyPiece& piece : group) {
    void* const on_device = device_block(0) + piece.device_offset;
    void* const on_host = host_arena_->data() + piece.host_offset;
    FS_CUDA(cudaMemcpyAsync(to_host ? on_host : on_device, to_host ? on_device : on_host,
                            static_cast<std::size_t>(piece.num_bytes),
                            to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, lane(direction).stream.get()));
  }
}

#if CUDART_VERSION >= 12080

/// One call for the whole group; false where the driver does not take it, and then never tried again. An invalid value
/// counts as well: single copies show whether an address is at fault or the driver wants its attributes another way.
bool CudaOffloadEngine::try_batch_call(Direction direction, std::span<const CopyPiece> group) {
  const bool to_host = direction == Direction::kDeviceToHost;
  std::vector<void*> targets(group.size());
  std::vector<void*> sources(group.size());
  std::vector<std::size_t> sizes(group.size());
  for (std::size_t i = 0; i < group.size(); ++i) {
    void* const on_device = device_block(0) + group[i].device_offset;
    void* const on_host = host_arena_->data() + group[i].host_offset;
    targets[i] = to_host ? on_host : on_device;
    sources[i] = to_host ? on_device : on_host;
    sizes[i] = static_cast<std::size_t>(group[i].num_bytes);
  }
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;  // kernels write the source of an offload
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  std::size_t first_of_attributes = 0;
  const cudaStream_t stream = lane(direction).stream.get();
#if CUDART_VERSION >= 13000
  const cudaError_t status = cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), group.size(),
                                                  &attributes, &first_of_attributes, 1, stream);
#else
  std::size_t failed = 0;
  const cudaError_t status = cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), group.size(),
                                                  &attributes, &first_of_attributes, 1, &failed, stream);
#endif
  if (status == cudaErrorNotSupported || status == cudaErrorCallRequiresNewerDriver ||
      status == cudaErrorInvalidValue) {
    (void)cudaGetLastError();
    batch_call_ = false;
    return false;
  }
  if (status != cudaSuccess) detail::raise_cuda(status, "cudaMemcpyBatchAsync", __FILE__, __LINE__);
  return true;
}

#else

bool CudaOffloadEngine::try_batch_call(Direction, std::span<const CopyPiece>) { return false; }

#endif

/// After a fault that spoils the context every call fails with it; after any other failure they go on as before.
bool CudaOffloadEngine::device_is_lost(Direction direction) {
  const cudaError_t status = cudaStreamQuery(lane(direction).stream.get());
  if (status == cudaSuccess || status == cudaErrorNotReady) return false;
  (void)cudaGetLastError();
  return true;
}

std::vector<std::uint64_t> CudaOffloadEngine::device_hashes(Direction direction, std::span<const std::int32_t> blocks) {
  const Lane& own = lane(direction);
  const cudaStream_t stream = own.stream.get();
  const StreamDrain drain(stream);
  std::vector<std::uint64_t> hashes;
  hashes.reserve(blocks.size());
  while (hash_on_device_ != nullptr && hashes.size() < blocks.size()) {
    const auto rest = blocks.subspan(hashes.size());
    const auto some = rest.first(std::min(rest.size(), kMostHashes));
    auto* const found = reinterpret_cast<std::int64_t*>(own.hashing.data());
    hash_on_device_(device_block(0), block_bytes(), some, found, stream);
    FS_CUDA(cudaStreamSynchronize(stream));
    for (std::size_t i = 0; i < some.size(); ++i) hashes.push_back(static_cast<std::uint64_t>(found[i]));
  }
  const auto num_bytes = static_cast<std::size_t>(block_bytes());
  for (std::size_t i = hashes.size(); i < blocks.size(); ++i) {
    FS_CUDA(cudaMemcpyAsync(own.hashing.data(), device_block(blocks[i]), num_bytes, cudaMemcpyDeviceToHost, stream));
    FS_CUDA(cudaStreamSynchronize(stream));
    hashes.push_back(hash_block({own.hashing.data(), num_bytes}));
  }
  return hashes;
}

}  // namespace fastserve::offload
