// Copies of KV blocks between the memory of a GPU and page-locked host memory.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "offload/copy/copy_pieces.h"
#include "offload/cuda/cuda_objects.h"
#include "offload/threaded_engine.h"

namespace fastserve::offload {

/// One thread and one stream per direction, so that both copy engines of the GPU run beside the compute.
///
/// Order. `submit` records an event on the compute stream; the copy stream waits for it before the first byte moves:
///   R1 an offload reads its blocks after the last kernel given to the compute stream before `submit`;
///   R3 an upload writes its blocks after the last step enqueued before `submit`, which may still read or write what
///      they held before.
/// A transfer is completed after an event behind its last copy was waited for on the host; until then the board keeps
/// its blocks, so that they are not reused (R2, R5). The other way round (R4, R7) nothing is enqueued: the scheduler
/// puts a request into a plan only after its upload was reported, so no kernel can be given to the GPU too early.
/// Events come from a pool and are given back when their transfer has ended (R6).
///
/// Link. Adjacent blocks are one copy, cut into pieces of at most 16 MiB, so that a small copy of another user of the
/// link never waits longer than one piece (0.3 ms); pieces go to the copy engine in batches, at most four ahead of what has ended.
/// Pieces below 32 KiB, where they are many, are copied by a kernel of two thread blocks instead. The link meter sees
/// the time between two events around the copies.
class CudaOffloadEngine final : public ThreadedOffloadEngine {
 public:
  /// `device_arena` [num_blocks, ...] is contiguous, on a GPU and outlives the engine; its blocks have the size of the
  /// host arena's. Throws InvalidArgumentError: otherwise, or when the arena is not page-locked and
  /// options.allow_pageable is not set. DeviceError: streams or buffers cannot be made.
  CudaOffloadEngine(const TensorView& device_arena, std::shared_ptr<const HostArena> host_arena,
                    const OffloadOptions& options);
  ~CudaOffloadEngine() override;

 private:
  /// Of one direction; used by its copy thread alone.
  struct Lane {
    CudaStream stream;
    CudaHostBuffer hashing;  // hashes from the device, or a block on its way to hash_block(); empty without checksums

    explicit Lane(std::size_t hashing_bytes) : hashing(hashing_bytes) {}
  };

  OrderingPoint mark() override;
  void drop(OrderingPoint point) override;
  void enter_thread() override;
  CopyReport copy(Direction direction, const std::vector<CopyRun>& runs, OrderingPoint after) override;
  bool device_is_lost(Direction direction) override;
  std::vector<std::uint64_t> device_hashes(Direction direction, std::span<const std::int32_t> blocks) override;

  Lane& lane(Direction direction) { return *lanes_[index_of(direction)]; }
  /// Queue all pieces, a bounded number ahead of those that ended; `queued` gets an event for each group under way.
  void queue_pieces(Direction direction, std::span<const CopyPiece> pieces, std::deque<PooledEvent>& queued);
  void queue_group(Direction direction, std::span<const CopyPiece> group);
  void queue_fragments(Direction direction, std::span<const CopyPiece> group);
  void queue_batch(Direction direction, std::span<const CopyPiece> group);
  bool try_batch_call(Direction direction, std::span<const CopyPiece> group);

  const int device_;
  const cudaStream_t compute_stream_;
  const HashBlocksOnDevice hash_on_device_;
  bool fragments_by_kernel_ = false;
  std::atomic<bool> batch_call_;
  CudaEventPool order_events_{false};
  CudaEventPool timing_events_{true};
  std::array<std::unique_ptr<Lane>, kNumDirections> lanes_;
};

}  // namespace fastserve::offload
