#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/tensor_view.h"

namespace fastserve::offload {

struct HostArenaOptions {
  /// Threads that touch the pages first; 0: one per core, at most 16.
  int num_threads = 0;
  /// Back the whole arena with real pages at once. Pinned memory needs it; without, pages come as they are first used,
  /// and a pool much larger than its use costs neither time nor memory.
  bool prefault = true;
  /// Page-lock the arena and map it for the GPUs, on the memory node of GPU `device` where there is a choice. The pages
  /// are touched first whatever `prefault` says.
  bool pin = false;
  int device = 0;
};

/// Host memory for offloaded KV blocks: one mapping, aligned to 2 MiB, in huge pages where the kernel allows,
/// zero-filled and, by default, backed by real pages from the start, so that no copy waits for a page fault
/// and a lack of memory shows at once.
class HostArena {
 public:
  /// The arena is page-locked in ranges of this size; a copy must not cross from one to the next.
  static constexpr std::int64_t kPinnedRangeBytes = std::int64_t{1} << 30;

  /// Map num_blocks * block_bytes bytes. Throws InvalidArgumentError for sizes < 1 or beyond 2^62 bytes, or to pin in a
  /// build without CUDA; DeviceError when the memory cannot be had or not be page-locked.
  HostArena(std::int64_t num_blocks, std::int64_t block_bytes, const HostArenaOptions& options = {});
  ~HostArena();
  HostArena(const HostArena&) = delete;
  HostArena& operator=(const HostArena&) = delete;

  std::int64_t num_blocks() const { return num_blocks_; }
  std::int64_t block_bytes() const { return block_bytes_; }
  std::int64_t num_bytes() const { return num_blocks_ * block_bytes_; }
  /// The kernel took the advice to use huge pages; it may still fall back to small ones.
  bool advises_huge_pages() const { return advises_huge_pages_; }
  /// The GPU's copy engines and kernels may access the arena.
  bool pinned() const { return pinned_bytes_ > 0; }

  std::byte* data() const { return data_; }
  /// Bytes [block_bytes] of a block in [0, num_blocks).
  std::span<std::byte> block(std::int64_t block) const {
    return {data_ + block * block_bytes_, static_cast<std::size_t>(block_bytes_)};
  }
  /// uint8 [num_blocks, block_bytes] on the cpu.
  TensorView view() const;

 private:
  void map();
  void touch_pages(int num_threads);
  void pin();
  void release();

  std::int64_t num_blocks_;
  std::int64_t block_bytes_;
  std::size_t mapped_bytes_ = 0;
  std::size_t pinned_bytes_ = 0;  // page-locked so far
  std::byte* data_ = nullptr;
  bool advises_huge_pages_ = false;
};

}  // namespace fastserve::offload
