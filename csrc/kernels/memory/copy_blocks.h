#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/forward.h"

namespace fastserve::kernels {

/// Checked input of the copy: block src_ids[i] of `src` goes to block dst_ids[i] of `dst`. The ids are host memory, and
/// no block that is written is read or written twice.
struct CopyBlocksParams {
  const char* src = nullptr;
  char* dst = nullptr;
  std::int64_t block_bytes = 0;
  std::int64_t num_copies = 0;
  const std::int32_t* src_ids = nullptr;
  const std::int32_t* dst_ids = nullptr;
};

/// Copy whole blocks between two contiguous tensors [num_blocks, ...] of one dtype on one device, or within one tensor.
/// On the GPU the copy is queued on `stream`, a cudaStream_t as an integer, and this returns before it is done.
/// src_ids and dst_ids are int32 [num_copies] on the CPU, taken before this returns.
/// Throws InvalidArgumentError when tensors or ids do not fit, a block is written twice, or a block is both read and
/// written; DeviceError when the launch fails.
void copy_blocks(const TensorView& src, const TensorView& dst, const TensorView& src_ids, const TensorView& dst_ids,
                 std::int64_t stream, ThreadPool& pool);

/// Checked input of the checksums; the ids are host memory.
struct ChecksumBlocksParams {
  const char* cache;  // [..., block_bytes]
  std::int64_t* out;  // [num_blocks]
  std::int64_t block_bytes;
  std::int64_t num_blocks;
  const std::int32_t* ids;  // [num_blocks]
};

/// out[i] = hash_block (base/block_hash.h) of the bytes of block ids[i]; the bits of an unsigned number as int64.
/// `cache` is contiguous [num_blocks, ...], ids int32 [n] on the CPU, out int64 [n]. With a cache on a GPU the work is
/// queued on `stream` (a cudaStream_t as an integer; 0 on the CPU), and out is on that GPU or in pinned memory.
void checksum_blocks(const TensorView& cache, const TensorView& ids, const TensorView& out, std::int64_t stream,
                     ThreadPool& pool);

/// Queues checksums of blocks that lie on a GPU, of any number, into page-locked memory; the ids are taken before it
/// returns.
using HashBlocksOnGpu = void (*)(const std::byte* cache, std::int64_t block_bytes, std::span<const std::int32_t> ids,
                                 std::int64_t* out, void* stream);
/// The above as a function pointer, for offload/, which must not include kernels/; null in a build without CUDA.
HashBlocksOnGpu hash_blocks_on_gpu();

/// Queue the copy on `stream` (a cudaStream_t); throws DeviceError when the launch fails.
void copy_blocks_cuda(const CopyBlocksParams& params, void* stream);
void checksum_blocks_cuda(const ChecksumBlocksParams& params, void* stream);

}  // namespace fastserve::kernels
